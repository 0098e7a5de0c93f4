package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/code"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

const (
	firstWait   = 200 * time.Millisecond
	longestWait = 2 * time.Second

	// shortestAttempt is what has to be left of the command's time for another attempt.
	shortestAttempt = 100 * time.Millisecond
)

// The reasons that are acted upon; the contract lists all.
const (
	backendThrottled   = "BACKEND_THROTTLED"
	backendUnavailable = "BACKEND_UNAVAILABLE"
	deadlineExceeded   = "DEADLINE_EXCEEDED"
	internal           = "INTERNAL"
	rateLimited        = "RATE_LIMITED"
	recordExists       = "RECORD_EXISTS"
	recordNotFound     = "RECORD_NOT_FOUND"
	serverStopping     = "SERVER_STOPPING"
	staleRevision      = "STALE_REVISION"
)

// call calls a method until it is answered or the time of ctx is up, which is the only bound; it sends the same bytes
// each time, which the server then does once. sealed is the revision of the envelope in the request, 0 if the call
// changes no record.
//
// Its error is a *refusal; or it says that the outcome is unknown, because an attempt was sent, its answer does not
// settle it, and no later answer shows whether the change was accepted.
func call[Request, Response any](
	ctx context.Context,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request,
	sealed int64,
) (*Response, error) {
	unknown := false
	for bound := firstWait; ; bound = min(2*bound, longestWait) {
		var reached peer.Peer // stays empty if there was no connection to send on
		answer, err := method(ctx, request, grpc.Peer(&reached))
		if err == nil {
			return answer, checkAcknowledged(answer, sealed)
		}
		refused := refusalOf(err)
		unknown = unknown || reached.Addr != nil && !refused.settlesAttempt()
		if refused.allowsRetry() && pause(ctx, refused.retryAfter, bound) {
			continue
		}
		if sealed != 0 && unknown && !refused.provesRefusal(sealed) {
			return nil, outcomeUnknown("the change was sent, then: " + refused.Error())
		}
		return nil, refused
	}
}

// checkAcknowledged fails unless an OK is for the revision that was sealed.
func checkAcknowledged(answer any, sealed int64) error {
	acknowledged, ok := answer.(interface{ GetRevision() int64 })
	if sealed == 0 || ok && acknowledged.GetRevision() == sealed {
		return nil
	}
	return outcomeUnknown(fmt.Sprintf("the server answered OK for another revision than %d", sealed))
}

func outcomeUnknown(cause string) error {
	return errors.New("the outcome is unknown, get the record to see: " + cause)
}

// pause waits at least this long, and a random time below bound more, so that clients that failed together do not come
// back together. It returns false at once if ctx would not leave the time for another attempt.
func pause(ctx context.Context, least, bound time.Duration) bool {
	if end, ok := ctx.Deadline(); ok {
		left := time.Until(end) - least
		if left < shortestAttempt {
			return false
		}
		bound = min(bound, left/2)
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(least + rand.N(bound)):
		return true
	}
}

// refusal is a status other than OK, with what KeyVault adds to it: google.rpc.ErrorInfo and RetryInfo.
type refusal struct {
	code            codes.Code
	message         string
	reason          string        // as the contract lists them; empty if the status is not KeyVault's own
	requestID       string        // finds the call in the server's log
	currentRevision int64         // with RECORD_EXISTS and STALE_REVISION, else -1; nothing proves it
	rememberedSince int64         // the same
	vacant          bool          // with STALE_REVISION: the name was purged
	retryAfter      time.Duration // with RATE_LIMITED and BACKEND_THROTTLED
}

func refusalOf(err error) *refusal {
	answered := status.Convert(err)
	refused := &refusal{code: answered.Code(), message: answered.Message(), currentRevision: -1, rememberedSince: -1}
	for _, detail := range answered.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == "keyvault" {
				refused.reason = detail.GetReason()
				refused.requestID = detail.GetMetadata()["request_id"]
				refused.currentRevision = revisionOf(detail.GetMetadata()["current_revision"])
				refused.rememberedSince = revisionOf(detail.GetMetadata()["remembered_since"])
				refused.vacant = detail.GetMetadata()["vacant"] == "true"
			}
		case *errdetails.RetryInfo:
			refused.retryAfter = max(0, detail.GetRetryDelay().AsDuration())
		}
	}
	if refused.reason != rateLimited && refused.reason != backendThrottled {
		refused.retryAfter = 0
	}
	return refused
}

// revisionOf returns -1 for what is not a revision.
func revisionOf(text string) int64 {
	revision, err := strconv.ParseInt(text, 10, 64)
	if err != nil || revision < 0 {
		return -1
	}
	return revision
}

// reasonOf returns the reason of a *refusal, and none of anything else.
func reasonOf(err error) string {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused.reason
	}
	return ""
}

// Error implements error: `STATUS REASON: message (request ID)`.
func (r *refusal) Error() string {
	text := code.Code(r.code).String()
	if r.reason != "" {
		text += " " + r.reason
	}
	text += ": " + r.message
	if r.reason == "" && r.code == codes.Unimplemented {
		text += " (the server does not know this call: it is an older KeyVault, or another service)"
	}
	if r.requestID != "" {
		text += " (request " + r.requestID + ")"
	}
	return text
}

// settlesAttempt returns whether it is known that the attempt changed nothing: KeyVault itself says so.
func (r *refusal) settlesAttempt() bool {
	return r.reason != "" && r.reason != backendUnavailable && r.reason != deadlineExceeded && r.reason != internal
}

// allowsRetry returns whether the same bytes may be accepted later.
func (r *refusal) allowsRetry() bool {
	switch r.reason {
	case rateLimited, backendThrottled, backendUnavailable, serverStopping, deadlineExceeded:
		return true
	case "": // gRPC's own, or a proxy's
		return slices.Contains(passing, r.code)
	}
	return false
}

var passing = []codes.Code{codes.Unavailable, codes.Canceled, codes.DeadlineExceeded, codes.Unknown, codes.Internal}

// provesRefusal returns whether the server would have recognized an accepted envelope of this revision.
func (r *refusal) provesRefusal(sealed int64) bool {
	return (r.reason == staleRevision || r.reason == recordExists) &&
		r.rememberedSince >= 0 && r.rememberedSince <= sealed && sealed <= r.currentRevision
}
