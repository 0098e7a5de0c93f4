package keyvault

import (
	"context"
	"errors"
	"maps"
	"math/rand/v2"
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

// Cache has records in memory and refreshes them in the background: by one BatchRead for a hundred, which sends the data
// of those that changed. While the server is away, or answers with an error other than that a record does not exist, it
// goes on with what it has. It is safe for concurrent use.
type Cache struct {
	client   *Client
	keys     map[string]*DataKey
	interval time.Duration
	onChange func(string, Result)

	refreshing sync.Mutex
	mu         sync.Mutex
	results    map[string]Result
	stop       context.CancelFunc
	stopped    chan struct{}
}

// NewCache reads the records and keeps them fresh until Close. It fails unless all can be read; ctx is for these first
// reads alone.
func (c *Client) NewCache(ctx context.Context, keys map[string]*DataKey, options ...CacheOption) (*Cache, error) {
	cache := &Cache{
		client: c, keys: maps.Clone(keys), interval: defaultRefresh, onChange: func(string, Result) {},
		stopped: make(chan struct{}),
	}
	for _, option := range options {
		option(cache)
	}
	if cache.interval <= 0 || cache.onChange == nil {
		return nil, invalid("invalid option of a cache: an interval must be more than 0, and OnChange needs a function")
	}
	results, err := c.ReadMany(ctx, cache.keys)
	if err == nil {
		err = failed(results)
	}
	if err != nil {
		return nil, err
	}
	cache.results = results
	running, stop := context.WithCancel(context.WithoutCancel(ctx))
	cache.stop = stop
	go cache.run(running)
	return cache, nil
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

// Refresh refreshes all records now. Its error joins those of the records that keep their earlier content, or is that of
// a call that failed as a whole.
func (c *Cache) Refresh(ctx context.Context) error {
	c.refreshing.Lock()
	defer c.refreshing.Unlock()
	known := map[string]int64{}
	c.mu.Lock()
	for name, result := range c.results {
		if result.Record != nil {
			known[name] = result.Record.Revision
		}
	}
	c.mu.Unlock()
	found, err := c.client.readMany(ctx, c.keys, known)
	if err != nil {
		return err
	}
	for name, result := range found {
		if c.take(name, result) {
			c.onChange(name, result)
			delete(found, name)
		} else if errors.Is(result.Err, ErrNotFound) {
			delete(found, name) // known already
		}
	}
	return failed(found)
}

// take keeps what a refresh found, and returns whether it is a change.
func (c *Cache) take(name string, result Result) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.results[name]
	gone := errors.Is(result.Err, ErrNotFound)
	switch {
	case result.Record == nil && !gone: // unchanged, or an error that says nothing of the record
		return false
	case gone && before.Err != nil:
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

func (c *Cache) run(ctx context.Context) {
	defer close(c.stopped)
	for {
		timer := time.NewTimer(c.interval - rand.N(max(1, c.interval/10)))
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
