package keyvault

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

const batchFull = "BATCH_FULL"

// Result is a record, or why there is none.
type Result struct {
	Record *Record
	Err    error
}

// ReadMany reads and opens many records, each under its key, in few calls. The map has for each name what [Client.Read]
// would have returned; together they are no snapshot. The error is that of a call that failed as a whole.
func (c *Client) ReadMany(ctx context.Context, keys map[string]*DataKey) (map[string]Result, error) {
	return c.readMany(ctx, &batch{keys: keys})
}

// batch is what one ReadMany has and wants.
type batch struct {
	keys    map[string]*DataKey
	known   map[string]int64 // revisions that the caller has; their Result is empty if they are current
	results map[string]Result
	wanted  []string

	envelopes map[string][]byte // of the records that were opened; nil if nobody wants them
}

func (c *Client) readMany(ctx context.Context, b *batch) (map[string]Result, error) {
	ctx, cancel := c.bounded(ctx)
	defer cancel()
	b.results = map[string]Result{}
	for _, name := range slices.Sorted(maps.Keys(b.keys)) {
		if err := checkUsable(b.keys[name], name); err != nil {
			b.results[name] = Result{Err: err}
		} else {
			b.wanted = append(b.wanted, name)
		}
	}
	for bound := firstWait; len(b.wanted) > 0; {
		again, full, err := c.readSome(ctx, b)
		if err != nil {
			return nil, err
		}
		if len(again) == 0 {
			b.wanted = append(full, b.wanted...)
			continue
		}
		var least time.Duration
		for _, failed := range again {
			least = max(least, failed.retryAfter)
		}
		if !pause(ctx, least, bound) { // no time is left to ask for these again
			for name, failed := range again {
				b.results[name] = Result{Err: failed.err}
			}
			again = nil
		}
		bound = min(2*bound, longestWait)
		b.wanted = slices.Concat(full, slices.Sorted(maps.Keys(again)), b.wanted)
	}
	return b.results, nil
}

// readSome asks once for the names that are wanted first. It returns those that may succeed later, and those that had no
// room in the answer.
func (c *Client) readSome(ctx context.Context, b *batch) (again map[string]failure, full []string, err error) {
	asked := b.wanted[:min(len(b.wanted), maxBatchItems)]
	b.wanted = b.wanted[len(asked):]
	request := &pb.BatchReadRequest{}
	floors := make([]int64, len(asked)) // before the call, as in fetch
	for i, name := range asked {
		if floors[i], err = c.seen.get(b.keys[name], name); err != nil {
			return nil, nil, err
		}
		request.Items = append(request.Items, &pb.BatchReadRequest_Item{KeyId: name, KnownRevision: b.known[name]})
	}
	answer, err := call(ctx, c, pb.KeyVaultClient.BatchRead, request, 0)
	if err != nil {
		return nil, nil, err
	}
	if len(answer.GetResults()) != len(asked) {
		return nil, nil, serverFailure("the server answered %d of %d reads", len(answer.GetResults()), len(asked))
	}
	c.seen.together(func() { again, full = c.sort(answer.GetResults(), asked, floors, b) })
	if len(full) == len(asked) {
		return nil, nil, serverFailure("the server has no room for a single record in its answer")
	}
	return again, full, nil
}

// sort takes the records of an answer to those that were asked for, and returns what readSome does.
func (c *Client) sort(
	results []*pb.BatchReadResponse_Result, asked []string, floors []int64, b *batch,
) (again map[string]failure, full []string) {
	again = map[string]failure{}
	for i, result := range results {
		name := asked[i]
		if result.GetError() == nil {
			b.results[name] = c.acceptItem(name, result.GetRecord(), b, floors[i])
			continue
		}
		failed := failureOfItem(result.GetError())
		switch {
		case result.GetError().GetReason() == batchFull:
			full = append(full, name)
		case failed.retry:
			again[name] = failed
		default:
			b.results[name] = Result{Err: failed.err}
		}
	}
	return again, full
}

// acceptItem opens one record of a batch.
func (c *Client) acceptItem(name string, record *pb.ReadResponse, b *batch, floor int64) Result {
	if err := checkSeen(name, record.GetRevision(), max(floor, b.known[name])); err != nil {
		return Result{Err: err}
	}
	opened, err := c.acceptIfChanged(name, record, b.keys[name], b.known[name])
	if opened != nil && b.envelopes != nil {
		b.envelopes[name] = record.GetEnvelope()
	}
	return Result{opened, err}
}

// failed joins the errors of results, in the order of their names.
func failed(results map[string]Result) error {
	var all []error
	for _, name := range slices.Sorted(maps.Keys(results)) {
		all = append(all, results[name].Err)
	}
	return errors.Join(all...)
}
