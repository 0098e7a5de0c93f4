package keyvault

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const defaultRefresh = time.Minute

// CacheOption changes how a [Cache] is refreshed.
type CacheOption func(*Cache)

// RefreshEvery sets how long a record may be behind the server, a minute by default; a tenth of it is random.
func RefreshEvery(interval time.Duration) CacheOption {
	return func(c *Cache) { c.interval = interval }
}

// OnChange is called after each refresh that changed a record, once for each: with its new record, or with the error if
// it was deleted. It is called by one goroutine, which waits for it.
func OnChange(called func(keyID string, now Result)) CacheOption {
	return func(c *Cache) { c.onChange = called }
}

// CacheFile keeps the records in a file as well, sealed as the server has them, so that a program starts while the server
// is away. Without the keys it shows names, sizes, revisions and times. Each cache needs a file of its own, which a cache of
// the Python client may have written. A file that cannot be used is a warning in the client's log.
func CacheFile(path string) CacheOption {
	return func(c *Cache) { c.file = &cacheFile{path: path} }
}

// startWait is how long a start waits for the server that has all records from the file.
const startWait = 2 * time.Second

// Cache has records in memory and refreshes them in the background: by one BatchRead for a hundred, which sends the data
// of those that changed. While the server is away, or answers with an error other than that a record does not exist, it
// goes on with what it has. It is safe for concurrent use.
type Cache struct {
	client   *Client
	keys     map[string]*DataKey
	interval time.Duration
	onChange func(string, Result)
	file     *cacheFile // nil for none

	refreshing sync.Mutex
	mu         sync.Mutex
	results    map[string]Result
	confirmed  map[string]time.Time
	sealed     map[string]*sealedRecord // those of results, if there is a file
	stop       context.CancelFunc
	stopped    chan struct{}
}

// NewCache reads the records and keeps them fresh until Close. It fails unless all can be read, or are in the file of
// [CacheFile]; ctx is for these first reads alone.
func (c *Client) NewCache(ctx context.Context, keys map[string]*DataKey, options ...CacheOption) (*Cache, error) {
	cache := &Cache{
		client: c, keys: maps.Clone(keys), interval: defaultRefresh, onChange: func(string, Result) {},
		results: map[string]Result{}, confirmed: map[string]time.Time{}, sealed: map[string]*sealedRecord{},
		stopped: make(chan struct{}),
	}
	for _, option := range options {
		option(cache)
	}
	if cache.interval <= 0 || cache.onChange == nil || cache.file != nil && cache.file.path == "" {
		return nil, invalid("invalid option of a cache: an interval must be more than 0, OnChange needs a function, and " +
			"CacheFile a path")
	}
	isStale, err := cache.start(ctx)
	if err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	cache.stop = stop
	go cache.run(running, isStale)
	return cache, nil
}

// start reads the records for the first time, and returns whether some are from the file alone.
func (c *Cache) start(ctx context.Context) (isStale bool, err error) {
	if c.file != nil {
		c.file.log = c.client.log
		c.load()
	}
	if len(c.results) == len(c.keys) && len(c.keys) > 0 {
		bounded, cancel := context.WithTimeout(ctx, startWait)
		defer cancel()
		ctx = bounded
	}
	failures, _, err := c.refresh(ctx)
	var missing []error
	for _, name := range slices.Sorted(maps.Keys(c.keys)) {
		switch result := c.results[name]; {
		case result.Record != nil:
		case err != nil:
			return false, err
		case result.Err != nil:
			missing = append(missing, result.Err)
		default:
			missing = append(missing, failures[name].Err)
		}
	}
	if len(missing) > 0 {
		return false, errors.Join(missing...)
	}
	if err = errors.Join(err, failed(failures)); err != nil {
		c.client.log.Warn("the server did not answer; starting with the records of the file", "error", err)
	}
	return err != nil, nil
}

// load opens what the file has of these names. It is not older than what was proved before.
func (c *Cache) load() {
	sealed := c.file.load()
	for name, key := range c.keys {
		one, ok := sealed[name]
		if !ok {
			continue
		}
		record, err := one.open(key)
		if err == nil {
			var floor int64
			if floor, err = c.client.seen.get(key, name); err == nil && record.Revision < floor {
				err = fmt.Errorf("%s is at revision %d there, and revision %d was seen since", name, record.Revision, floor)
			}
		}
		if err != nil {
			c.client.log.Warn("a record of the cache's file is ignored: " + err.Error())
			continue
		}
		c.client.seen.note(key, name, record.Revision)
		one.confirmed = one.confirmedAt()
		c.results[name], c.confirmed[name], c.sealed[name] = Result{Record: record}, one.confirmed, one
	}
	c.file.remember(c.sealed)
}

// Get returns a record as it was when it was last refreshed. The error is an ErrNotFound if it was deleted since.
func (c *Cache) Get(keyID string) (*Record, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	found, ok := c.results[keyID]
	if !ok {
		return nil, invalid("%s is not among the names of this cache", quote(keyID))
	}
	return found.Record, found.Err
}

// Age returns for how long the server has not confirmed the record that Get returns, by this machine's clock.
func (c *Cache) Age(keyID string) (time.Duration, error) {
	if _, err := c.Get(keyID); err != nil {
		return 0, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, time.Since(c.confirmed[keyID])), nil
}

// Refresh refreshes all records now. Its error joins those of the records that keep their earlier content, or is that of
// a call that failed as a whole.
func (c *Cache) Refresh(ctx context.Context) error {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	failures, changed, err := c.refresh(ctx)
	for _, name := range slices.Sorted(maps.Keys(changed)) {
		c.onChange(name, changed[name])
	}
	if err != nil {
		return err
	}
	return failed(failures)
}

// refresh returns the records that keep their earlier content, with why, and those that changed.
func (c *Cache) refresh(ctx context.Context) (failures, changed map[string]Result, err error) {
	b := &batch{keys: c.keys, known: map[string]int64{}}
	if c.file != nil {
		b.envelopes = map[string][]byte{}
	}
	c.mu.Lock()
	for name, result := range c.results {
		if result.Record != nil {
			b.known[name] = result.Record.Revision
		}
	}
	c.mu.Unlock()
	began := time.Now().Round(0) // by the wall clock: it goes on while the machine sleeps
	found, err := c.client.readMany(ctx, b)
	if err != nil {
		return nil, nil, err
	}
	failures, changed = map[string]Result{}, map[string]Result{}
	for name, result := range found {
		if c.take(name, result, b.envelopes[name], began) {
			changed[name] = result
		} else if result.Err != nil && !errors.Is(result.Err, ErrNotFound) {
			failures[name] = result
		}
	}
	if c.file != nil {
		c.file.save(c.sealed, c.keys) // which only a refresh changes
	}
	return failures, changed, nil
}

// take keeps what a refresh found that began at this time, and returns whether it is a change.
func (c *Cache) take(name string, result Result, envelope []byte, began time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.results[name]
	gone := errors.Is(result.Err, ErrNotFound)
	if result.Err != nil && !gone || gone && before.Err != nil {
		return false // an error that says nothing of the record, or nothing new
	}
	c.confirmed[name] = began
	if gone {
		delete(c.sealed, name)
	} else if result.Record != nil && c.file != nil {
		c.sealed[name] = &sealedRecord{
			keyID: name, envelope: envelope, created: result.Record.CreateTime, updated: result.Record.UpdateTime,
		}
	}
	if one, ok := c.sealed[name]; ok {
		one.confirmed = began
	}
	if result.Record == nil && !gone { // unchanged
		return false
	}
	c.results[name] = result
	return true
}

// Close stops the refreshing and waits for it. It always returns nil.
func (c *Cache) Close() error {
	c.stop()
	<-c.stopped
	return nil
}

// run refreshes until ctx ends, at once if what the cache has is stale.
func (c *Cache) run(ctx context.Context, isStale bool) {
	defer close(c.stopped)
	for {
		wait := c.interval - rand.N(max(1, c.interval/10))
		if isStale {
			wait, isStale = 0, false
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case <-timer.C:
		}
		if err := c.Refresh(ctx); err != nil && ctx.Err() == nil {
			c.client.log.Warn("refresh failed; keeping the earlier records", "error", err)
		}
	}
}
