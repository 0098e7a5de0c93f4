package keyvault

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

const (
	// firstWait and longestWait bound the random wait between two attempts; the bound doubles from one to the other.
	firstWait   = 200 * time.Millisecond
	longestWait = 2 * time.Second
	// leastAttempt is what has to be left of a call's time for another attempt.
	leastAttempt = 100 * time.Millisecond
	// leastShare is the least time of an attempt, unless the call has less. Half of what the call has left is its share.
	leastShare = 2 * time.Second
)

// method is one of pb.KeyVaultClient, as in pb.KeyVaultClient.Read.
type method[Request, Response any] func(pb.KeyVaultClient, context.Context, *Request, ...grpc.CallOption) (*Response, error)

// call attempts a call until it is answered or the time of ctx is up, which is the only bound; it sends the same bytes
// each time, which the server then does once. sealed is the revision of the envelope in the request, 0 if the call
// changes no record. ctx has a deadline.
//
// Once an attempt of a mutation is unknown, only an OK or a proof settles it: the record is at another revision, and the
// server would have recognized this envelope. Anything else is an ErrOutcomeUnknown.
func call[Request, Response any](
	ctx context.Context, c *Client, do method[Request, Response], request *Request, sealed int64,
) (*Response, error) {
	unknown := false
	for bound := firstWait; ; bound = min(2*bound, longestWait) {
		answer, failed := attempt(ctx, c, do, request)
		if failed == nil {
			return answer, checkAcknowledged(answer, sealed)
		}
		unknown = unknown || !failed.settled
		if failed.retry && pause(ctx, failed.retryAfter, bound) {
			continue
		}
		if sealed != 0 && unknown && !provesAbsence(failed.err, sealed) {
			return nil, outcomeUnknown(ctx, sealed, failed.err)
		}
		return nil, ended(ctx, failed.err)
	}
}

// attempt sends the request once.
func attempt[Request, Response any](
	ctx context.Context, c *Client, do method[Request, Response], request *Request,
) (*Response, *failure) {
	if ctx.Err() != nil {
		return nil, &failure{err: newError(ErrUnavailable, "the time was up before the request was sent"), settled: true}
	}
	var reached peer.Peer // stays empty if there was no connection to send on
	options := []grpc.CallOption{grpc.Peer(&reached)}
	if c.token != nil {
		token, err := bearerOf(ctx, c.token)
		if err != nil {
			return nil, &failure{err: err, settled: true, retry: errors.Is(err, ErrUnavailable)}
		}
		options = append(options, grpc.PerRPCCredentials(token))
	}
	on, err := c.connector.acquire()
	if err != nil {
		return nil, &failure{err: err, settled: true}
	}
	defer c.connector.release(on)
	within, cancel := context.WithTimeout(ctx, share(ctx))
	defer cancel()
	on.sends()
	answer, err := do(on.rpc, within, request, options...)
	if err == nil || within.Err() == nil {
		on.answered()
	} else if on.isSilent() {
		c.connector.leave(on)
	}
	if err == nil {
		return answer, nil
	}
	if reached.Addr == nil {
		return nil, c.unsent(err)
	}
	failed := failureOf(err)
	return nil, &failed
}

// share returns how long an attempt may take.
func share(ctx context.Context) time.Duration {
	end, _ := ctx.Deadline()
	left := time.Until(end)
	return min(left, max(left/2, leastShare))
}

// unsent is the failure of an attempt that had no connection to be sent on.
func (c *Client) unsent(err error) *failure {
	answered := status.Convert(err)
	if answered.Code() == codes.Canceled && c.connector.isClosed() {
		return &failure{err: newError(ErrClosed, "this client was closed; the request was not sent"), settled: true}
	}
	secure := c.connector.handshakes
	found := &failure{settled: true, retry: slices.Contains(passing, answered.Code())}
	var refused error
	if secure != nil {
		refused = secure.refused()
	}
	if refused != nil { // and another attempt would be refused as well
		err, found.retry = refused, false
	}
	why := explain(answered.Message(), refused, secure != nil)
	found.err = because(newError(ErrUnavailable, "cannot connect to %s: %s", c.connector.address, why), err)
	return found
}

// pause waits at least this long, and a random time below bound more, so that clients that failed together do not come
// back together. It returns false at once if ctx would not leave the time for another attempt.
func pause(ctx context.Context, least, bound time.Duration) bool {
	end, _ := ctx.Deadline()
	left := time.Until(end) - leastAttempt
	if least >= left { // and so no sum of the two overflows
		return false
	}
	timer := time.NewTimer(least + rand.N(min(bound, left-least)))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// checkAcknowledged fails unless an OK is for the revision that was sealed.
func checkAcknowledged(answer any, sealed int64) error {
	acknowledged, ok := answer.(interface{ GetRevision() int64 })
	if sealed == 0 || ok && acknowledged.GetRevision() == sealed {
		return nil
	}
	return newError(ErrOutcomeUnknown, "the outcome of the change to revision %d is unknown (the server answered OK for "+
		"another revision): read the record to see", sealed)
}

// outcomeUnknown is the error of a mutation whose last attempt failed so.
func outcomeUnknown(ctx context.Context, sealed int64, cause error) error {
	err := newError(ErrOutcomeUnknown, "the outcome of the change to revision %d is unknown (%v): read the record to see",
		sealed, cause)
	var about *Error
	if errors.As(cause, &about) {
		err.Reason, err.RequestID = about.Reason, about.RequestID
	}
	err.cause, err.ended = cause, ctx.Err()
	return err
}

// ended adds what ended the call, if its context did.
func ended(ctx context.Context, err error) error {
	var about *Error
	if ctx.Err() == nil || !errors.As(err, &about) {
		return err
	}
	about.ended = ctx.Err()
	if errors.Is(ctx.Err(), context.Canceled) {
		about.code = codes.Canceled
	}
	return err
}

// provesAbsence returns whether the server would have recognized the envelope of this revision, had it accepted it.
func provesAbsence(err error, sealed int64) bool {
	conflict := conflictOf(err)
	return conflict != nil && conflict.rememberedSince >= 0 &&
		conflict.rememberedSince <= sealed && sealed <= conflict.CurrentRevision
}
