package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
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
	firstWait   = 100 * time.Millisecond
	longestWait = 2 * time.Second

	// ring is how many envelopes a record remembers: a change that is not the stored one, nor among as many before
	// it, was refused.
	ring = 16
)

// The reasons that are acted upon; the contract lists all.
const (
	recordExists   = "RECORD_EXISTS"
	recordNotFound = "RECORD_NOT_FOUND"
	staleRevision  = "STALE_REVISION"
)

// call calls a method until it is answered or the time of ctx is up; it sends the same bytes each time, which the
// server then does once. sealed is the revision of the envelope in the request, 0 if the call changes no record.
//
// Its error is a *refusal; or it says that the outcome is unknown, because a change was sent, not answered, and nothing
// that was answered later shows whether it was accepted.
func call[Request, Response any](
	ctx context.Context,
	method func(context.Context, *Request, ...grpc.CallOption) (*Response, error),
	request *Request,
	sealed int64,
) (*Response, error) {
	unanswered := false
	for wait := firstWait; ; wait = min(2*wait, longestWait) {
		var reached peer.Peer // stays empty if there was no connection to send on
		answer, err := method(ctx, request, grpc.Peer(&reached))
		if err == nil {
			return answer, nil
		}
		refused := refusalOf(err)
		unanswered = unanswered || refused.leavesOpen() && reached.Addr != nil
		again := refused.leavesOpen() || refused.retryAfter > 0
		if again && sleep(ctx, refused.retryAfter+rand.N(wait)) {
			continue
		}
		if sealed != 0 && unanswered && !refused.provesRefusal(sealed) {
			return nil, fmt.Errorf("the outcome is unknown, get the record to see: the change was sent, then: %s", refused)
		}
		return nil, refused
	}
}

// sleep returns false at once if ctx would end during the wait.
func sleep(ctx context.Context, wait time.Duration) bool {
	if end, ok := ctx.Deadline(); ok && time.Until(end) <= wait {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(wait):
		return true
	}
}

// refusal is a status other than OK, with what KeyVault adds to it: google.rpc.ErrorInfo and RetryInfo.
type refusal struct {
	code            codes.Code
	message         string
	reason          string        // as the contract lists them; empty if the status is not KeyVault's own
	requestID       string        // finds the call in the server's log
	currentRevision int64         // with RECORD_EXISTS and STALE_REVISION
	retryAfter      time.Duration // with RATE_LIMITED and BACKEND_THROTTLED
}

func refusalOf(err error) *refusal {
	answered := status.Convert(err)
	refused := &refusal{code: answered.Code(), message: answered.Message()}
	for _, detail := range answered.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			if detail.GetDomain() == "keyvault" {
				refused.reason = detail.GetReason()
				refused.requestID = detail.GetMetadata()["request_id"]
				refused.currentRevision, _ = strconv.ParseInt(detail.GetMetadata()["current_revision"], 10, 64)
			}
		case *errdetails.RetryInfo:
			refused.retryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return refused
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
	if r.requestID != "" {
		text += " (request " + r.requestID + ")"
	}
	return text
}

// leavesOpen returns whether the call may have been carried out all the same.
func (r *refusal) leavesOpen() bool {
	switch r.code {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled:
		return true
	case codes.Internal, codes.Unknown:
		return r.reason == "" // a broken connection's, or a proxy's
	}
	return false
}

// provesRefusal returns whether the record is at a revision that it cannot have reached through an envelope sealed for
// this one without remembering it.
func (r *refusal) provesRefusal(sealed int64) bool {
	return r.currentRevision != 0 && r.currentRevision-sealed < ring
}
