package keyvault

import (
	"context"
	"errors"
)

// exitCodes has the kinds in the order in which they count: an unknown outcome is more than what ended the call.
var exitCodes = []struct {
	kind error
	code int
}{
	{ErrOutcomeUnknown, 7},
	{context.Canceled, 130}, // as a shell reports SIGINT
	{ErrUnavailable, 6}, {ErrBusy, 6},
	{ErrDenied, 5}, {ErrNotAuthorized, 5},
	{ErrConflict, 4}, {ErrAlreadyExists, 4},
	{ErrNotFound, 3},
}

// ExitCode returns the code with which a command ends after this error, as `keyvault` does: 0 for nil, 2 for bad usage, 3
// not found, 4 conflict, 5 denied, 6 unavailable (nothing was written), 7 outcome unknown, 130 interrupted, 1 for any
// other. An [ErrInvalidRequest] is bad usage unless the server found it.
func ExitCode(err error) int {
	if err == nil {
		return 0
	}
	for _, one := range exitCodes {
		if errors.Is(err, one.kind) {
			return one.code
		}
	}
	if about, ok := errors.AsType[*Error](err); errors.Is(err, ErrInvalidRequest) && (!ok || about.Reason == "") {
		return 2
	}
	return 1
}
