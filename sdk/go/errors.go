package keyvault

import (
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Kinds of failure, for [errors.Is]. Every error of this package is of exactly one kind, or of one and its parent.
var (
	// ErrInvalidRequest: the request can never succeed as it is; usually found before anything is sent.
	ErrInvalidRequest = newKind("invalid request", codes.InvalidArgument, nil)
	// ErrBadPageToken: the server does not continue a listing: list again from the beginning. An ErrInvalidRequest.
	ErrBadPageToken = newKind("the listing does not go on", codes.InvalidArgument, ErrInvalidRequest)
	// ErrNotFound: there is no such record, or it was deleted.
	ErrNotFound = newKind("not found", codes.NotFound, nil)
	// ErrRevisionNotFound: the record exists, but the server does not keep this revision of it. An ErrNotFound.
	ErrRevisionNotFound = newKind("revision not found", codes.NotFound, ErrNotFound)
	// ErrAlreadyExists: Create met a live record; nothing was written. The error is a [*Conflict].
	ErrAlreadyExists = newKind("already exists", codes.AlreadyExists, nil)
	// ErrConflict: the record is at another revision than the caller named, or was purged; nothing was written. The
	// error is a [*Conflict].
	ErrConflict = newKind("conflict", codes.Aborted, nil)
	// ErrNotAuthorized: the wrapped key does not unwrap, or its data key is not the record's.
	ErrNotAuthorized = newKind("not authorized", codes.PermissionDenied, nil)
	// ErrDenied: the server's policy forbids the call, or the caller has no valid identity.
	ErrDenied = newKind("denied", codes.PermissionDenied, nil)
	// ErrBusy: a quota, a throttled backend or a full store; nothing was written.
	ErrBusy = newKind("busy", codes.ResourceExhausted, nil)
	// ErrMasterKeyUnusable: only the server's operator can help.
	ErrMasterKeyUnusable = newKind("the master key is unusable", codes.FailedPrecondition, nil)
	// ErrUnavailable: no answer; nothing was written.
	ErrUnavailable = newKind("unavailable", codes.Unavailable, nil)
	// ErrClosed: this client was closed; nothing was sent. An ErrUnavailable.
	ErrClosed = newKind("this client is closed", codes.Unavailable, ErrUnavailable)
	// ErrOutcomeUnknown: a mutation was sent and may have been done. Read the record to see.
	ErrOutcomeUnknown = newKind("the outcome is unknown", codes.Unknown, nil)
	// ErrRecordDamaged: the stored record does not open under this key, or is not a record.
	ErrRecordDamaged = newKind("the record is damaged", codes.DataLoss, nil)
	// ErrRolledBack: the server shows an older revision than this client has seen. The error is a [*RolledBack].
	ErrRolledBack = newKind("the store was rolled back", codes.DataLoss, nil)
	// ErrServerFailure: a fault of the server, or the address is not a KeyVault server's.
	ErrServerFailure = newKind("the server failed", codes.Internal, nil)
)

// kind is what errors.Is compares with.
type kind struct {
	text   string
	code   codes.Code
	parent error
}

func newKind(text string, code codes.Code, parent error) error { return &kind{text, code, parent} }

func (k *kind) Error() string { return k.text }

func (k *kind) Unwrap() error { return k.parent }

// Error is a failure of this package, other than a [*Conflict] and a [*RolledBack], which hold one. It holds no secret,
// and what a server says in it is printable.
type Error struct {
	// Reason is the server's google.rpc.ErrorInfo.reason, empty if this package found the error.
	Reason string
	// RequestID finds the call in the server's log.
	RequestID string
	// RetryAfter is how long the server asks to be left alone, with ErrBusy.
	RetryAfter time.Duration
	// CurrentRevision is what the server says, with ErrRevisionNotFound, else 0. Nothing proves it.
	CurrentRevision int64

	kind    error
	code    codes.Code
	message string
	ended   error // of the context
	cause   error
}

// Error implements error: one line.
func (e *Error) Error() string { return e.message }

// Is reports whether the target is the kind of this error, or the parent of the kind.
func (e *Error) Is(target error) bool {
	return errors.Is(e.kind, target)
}

// Unwrap returns what ended the call, such as context.Canceled, and the cause, such as an error of crypto/x509. The
// cause of an ErrOutcomeUnknown is not among them, because it may say that nothing was written: Cause has it.
func (e *Error) Unwrap() []error {
	var all []error
	if e.ended != nil {
		all = append(all, e.ended)
	}
	if e.cause != nil && !errors.Is(e.kind, ErrOutcomeUnknown) {
		all = append(all, e.cause)
	}
	return all
}

// Cause returns why the last attempt of an ErrOutcomeUnknown failed, and else what Unwrap has.
func (e *Error) Cause() error { return e.cause }

// GRPCStatus returns the status that a gRPC service answers with which returns this error. It has no details: those of
// a KeyVault server would speak to the callers of your service.
func (e *Error) GRPCStatus() *status.Status { return status.New(e.code, e.message) }

// Conflict is an ErrConflict or an ErrAlreadyExists: the record is at another revision than the mutation assumed.
type Conflict struct {
	// CurrentRevision is what the server says, 0 if it does not say. Anyone between you and the records can make it up:
	// read the record before you name a revision.
	CurrentRevision int64
	// Vacant says that the name was purged, with CurrentRevision as its last revision.
	Vacant bool

	rememberedSince int64 // -1 if the server does not say
	err             *Error
}

// Error implements error.
func (c *Conflict) Error() string { return c.err.Error() }

// Unwrap returns the [*Error].
func (c *Conflict) Unwrap() error { return c.err }

// GRPCStatus is as that of [*Error].
func (c *Conflict) GRPCStatus() *status.Status { return c.err.GRPCStatus() }

// RolledBack is an ErrRolledBack: the server's table was restored or tampered with.
type RolledBack struct {
	KeyID string
	// Revision is what the server shows, and Seen what this client had proved before.
	Revision, Seen int64
}

// Error implements error.
func (r *RolledBack) Error() string {
	return fmt.Sprintf("%s is at revision %d, but this client has seen revision %d: the store was rolled back",
		r.KeyID, r.Revision, r.Seen)
}

// Is reports whether the target is ErrRolledBack.
func (r *RolledBack) Is(target error) bool { return errors.Is(ErrRolledBack, target) }

// GRPCStatus is as that of [*Error].
func (r *RolledBack) GRPCStatus() *status.Status { return status.New(codes.DataLoss, r.Error()) }

func newError(of error, format string, values ...any) *Error {
	err := &Error{kind: of, code: codes.Unknown, message: fmt.Sprintf(format, values...)}
	if about, ok := errors.AsType[*kind](of); ok {
		err.code = about.code
	}
	return err
}

func invalid(format string, values ...any) error {
	return newError(ErrInvalidRequest, format, values...)
}

func serverFailure(format string, values ...any) error {
	return newError(ErrServerFailure, format, values...)
}

func because(err *Error, cause error) *Error {
	err.cause = cause
	return err
}
