package keyvault

import (
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	pb "github.com/keyvault-grpc/keyvault/sdk/go/keyvaultv1"
)

// silence is for how long a connection may answer nothing at all before a call that gave up waiting leaves it. Pings
// leave it too, after some 13 s; a call may not have as long.
const silence = 2 * time.Second

// connection is one gRPC channel.
type connection struct {
	channel *grpc.ClientConn
	rpc     pb.KeyVaultClient
	calls   int // in flight; held by the connector's lock

	// silentSince is when the first call was sent that nothing has answered since, in nanoseconds since 1970; 0 if
	// something was answered after every call.
	silentSince atomic.Int64
}

func (c *connection) sends() { c.silentSince.CompareAndSwap(0, time.Now().UnixNano()) }

func (c *connection) answered() { c.silentSince.Store(0) }

func (c *connection) isSilent() bool {
	since := c.silentSince.Load()
	return since != 0 && time.Now().UnixNano()-since >= int64(silence)
}

// connector gives the connection for each attempt, and replaces one that stopped answering.
type connector struct {
	address    string
	handshakes *handshakes // nil without TLS

	mu      sync.Mutex
	current *connection
	all     map[*connection]struct{}
	closed  bool
}

// newConnector reads the files of TLS, and connects with the first call.
func newConnector(address string, s settings) (*connector, error) {
	c := &connector{address: address, all: map[*connection]struct{}{}}
	if s.tls != nil {
		config, err := s.tls.config()
		if err != nil {
			return nil, err
		}
		c.handshakes = &handshakes{files: *s.tls, log: s.log, usable: config}
	}
	var err error
	c.current, err = c.open()
	return c, err
}

// open makes a channel that connects with its first call. It has a connection of its own, which no other one shares.
func (c *connector) open() (*connection, error) {
	pace := backoff.Config{BaseDelay: firstWait, Multiplier: 1.6, Jitter: 0.2, MaxDelay: time.Second}
	options := []grpc.DialOption{
		grpc.WithDisableRetry(), // call retries itself: it knows what an answer means
		grpc.WithDisableServiceConfig(),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: pace, MinConnectTimeout: 5 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{ // 10 s is the least that gRPC and the server take
			Time: 10 * time.Second, Timeout: 3 * time.Second, PermitWithoutStream: true,
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxReply), grpc.MaxCallSendMsgSize(maxMessage)),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
	}
	if c.handshakes != nil {
		options = append(options, grpc.WithTransportCredentials(c.handshakes))
	}
	channel, err := grpc.NewClient(target(c.address), options...)
	if err != nil {
		return nil, because(newError(ErrInvalidRequest, "invalid address %s: %v", c.address, err), err)
	}
	opened := &connection{channel: channel, rpc: pb.NewKeyVaultClient(channel)}
	c.all[opened] = struct{}{}
	return opened, nil
}

// acquire returns the connection for one attempt; release it afterwards.
func (c *connector) acquire() (*connection, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, newError(ErrClosed, "this client is closed; the request was not sent")
	}
	c.current.calls++
	return c.current, nil
}

func (c *connector) release(one *connection) {
	c.mu.Lock()
	one.calls--
	c.mu.Unlock()
	c.closeUnused()
}

// leave makes a new connection for later attempts, unless that was done. What is in flight on the old one goes on.
func (c *connector) leave(one *connection) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.current != one {
		return
	}
	if opened, err := c.open(); err == nil {
		c.current = opened
	}
}

// closeUnused closes what was left and has no calls in flight any more; all, if the client is closed.
func (c *connector) closeUnused() {
	c.mu.Lock()
	var unused []*connection
	for one := range c.all {
		if c.closed || one != c.current && one.calls == 0 {
			unused = append(unused, one)
			delete(c.all, one)
		}
	}
	c.mu.Unlock()
	for _, one := range unused {
		_ = one.channel.Close()
	}
}

func (c *connector) close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.closeUnused()
}

func (c *connector) isClosed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}
