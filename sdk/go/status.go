package keyvault

import (
	"errors"
	"slices"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

// domain is that of KeyVault's own google.rpc.ErrorInfo. A status without it comes from gRPC or a proxy, possibly after
// the server did what was asked: it settles nothing, and says neither when to retry nor which revision is stored.
const domain = "keyvault"

// passing are the codes of a status that is not KeyVault's after which the same bytes may succeed.
var passing = []codes.Code{codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Unknown, codes.Internal}

// failure is why an attempt failed.
type failure struct {
	err        error // an *Error or a *Conflict
	settled    bool  // the attempt changed nothing, for certain
	retry      bool  // the same bytes may succeed later
	retryAfter time.Duration
}

// refusal is a status with KeyVault's ErrorInfo, or an item's error of a BatchRead.
type refusal struct {
	code       codes.Code
	message    string
	reason     string
	metadata   map[string]string
	retryAfter time.Duration
}

// failureOf returns what the error of an attempt means that was sent.
func failureOf(err error) failure {
	answered := status.Convert(err)
	said := refusal{code: answered.Code(), message: answered.Message()}
	var retryAfter time.Duration
	for _, detail := range answered.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == domain {
				said.reason, said.metadata = detail.GetReason(), detail.GetMetadata()
			}
		case *errdetails.RetryInfo:
			retryAfter = detail.GetRetryDelay().AsDuration() // saturates
		}
	}
	if said.reason == "" {
		return failure{err: foreignError(said), retry: slices.Contains(passing, said.code)}
	}
	said.retryAfter = retryAfter
	return said.failure()
}

// failureOfItem returns what the error of one Read of a batch means.
func failureOfItem(failed *pb.BatchReadResponse_Error) failure {
	said := refusal{
		code: codes.Code(failed.GetCode()), message: failed.GetMessage(), reason: failed.GetReason(),
		metadata: failed.GetMetadata(), retryAfter: failed.GetRetryDelay().AsDuration(),
	}
	found := said.failure()
	found.settled = true
	return found
}

func (r refusal) failure() failure {
	kind := r.kind()
	isBusy := errors.Is(kind, ErrBusy)
	if !isBusy || r.retryAfter < 0 {
		r.retryAfter = 0
	}
	unsettled := []string{"BACKEND_UNAVAILABLE", "DEADLINE_EXCEEDED", "INTERNAL"}
	return failure{
		err:        r.error(),
		settled:    !slices.Contains(unsettled, r.reason),
		retry:      errors.Is(kind, ErrUnavailable) || isBusy && r.reason != "STORE_FULL",
		retryAfter: r.retryAfter,
	}
}

// error returns the *Error or *Conflict for the refusal.
func (r refusal) error() error {
	err := newError(r.kind(), "%s", r.line())
	err.code = r.code
	err.Reason, err.RequestID = printable(r.reason), printable(r.metadata["request_id"])
	err.RetryAfter = r.retryAfter
	current, since := revisionOf(r.metadata["current_revision"]), revisionOf(r.metadata["remembered_since"])
	switch r.reason {
	case "REVISION_NOT_FOUND":
		err.CurrentRevision = max(0, current)
	case "STALE_REVISION", "RECORD_EXISTS":
		vacant := r.metadata["vacant"] == "true" && r.reason == "STALE_REVISION"
		return &Conflict{CurrentRevision: max(0, current), Vacant: vacant, rememberedSince: since, err: err}
	}
	return err
}

// line is `STATUS REASON: message (request ID)`.
func (r refusal) line() string {
	text := code.Code(r.code).String()
	if r.reason != "" {
		text += " " + printable(r.reason)
	}
	text += ": " + printable(r.message)
	if id := r.metadata["request_id"]; id != "" {
		text += " (request " + printable(id) + ")"
	}
	return text
}

func (r refusal) kind() error {
	switch r.reason {
	case "RECORD_EXISTS":
		return ErrAlreadyExists
	case "STALE_REVISION":
		return ErrConflict
	case "REVISION_NOT_FOUND":
		return ErrRevisionNotFound
	case "NOT_AUTHORIZED":
		return ErrNotAuthorized
	case "BAD_PAGE_TOKEN":
		return ErrBadPageToken
	}
	return kindOfCode(r.code, map[codes.Code]error{
		codes.InvalidArgument: ErrInvalidRequest, codes.NotFound: ErrNotFound, codes.PermissionDenied: ErrDenied,
		codes.Unauthenticated: ErrDenied, codes.FailedPrecondition: ErrMasterKeyUnusable, codes.Unavailable: ErrUnavailable,
		codes.DeadlineExceeded: ErrUnavailable, codes.DataLoss: ErrRecordDamaged, codes.ResourceExhausted: ErrBusy,
	})
}

// foreignError is that of a status without KeyVault's ErrorInfo.
func foreignError(r refusal) *Error {
	kinds := map[codes.Code]error{
		codes.PermissionDenied: ErrDenied, codes.Unauthenticated: ErrDenied, codes.ResourceExhausted: ErrBusy,
	}
	for _, code := range passing {
		kinds[code] = ErrUnavailable
	}
	line := r.line()
	if r.code == codes.Unimplemented {
		line += " (the server does not know this call: it is an older KeyVault, or another service)"
	}
	err := newError(kindOfCode(r.code, kinds), "%s", line)
	err.code = r.code
	return err
}

func kindOfCode(code codes.Code, kinds map[codes.Code]error) error {
	if found, ok := kinds[code]; ok {
		return found
	}
	return ErrServerFailure
}

// revisionOf returns a revision in decimal, 0 included; -1 for anything else, of whatever length.
func revisionOf(text string) int64 {
	revision, err := strconv.ParseInt(text, 10, 64)
	if err != nil || revision < 0 {
		return -1
	}
	return revision
}
