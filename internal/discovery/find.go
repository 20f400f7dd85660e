package discovery

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const (
	// firstAnswerTimeout is how long a handshake waits for upstreams to be found, and
	// askTimeout how long a source may take that is looked up in it.
	firstAnswerTimeout = 2 * time.Second
	askTimeout         = 2 * time.Second
)

// Find waits, in a handshake, for upstreams that are still to be found, and looks up the
// sources that depend on the request with what lookup makes for them, by their index. It
// returns what kept sources from finding anything.
func (all Sources) Find(ctx context.Context, c *upstream.Candidates, lookup func(i int) Lookup) (problems []string) {
	calls := make([]*call, len(all))
	for i, s := range all {
		if s.refresher == nil {
			calls[i] = lookup(i).start(ctx, askTimeout, s.callee) // all at once, so that a slow one does not take the time of others
		}
	}
	all.awaitFound(ctx)
	for i, s := range all {
		var err error
		if s.refresher != nil {
			err = s.refresher.problem()
		} else {
			err = s.give(ctx, calls[i], c)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("source %s: %v", s.Name, err))
		}
	}
	return problems
}

// give adds what a call of the source finds for the request, but for what the pool has by
// itself: that has settings, and may be checked.
func (s *Source) give(ctx context.Context, call *call, c *upstream.Candidates) error {
	select {
	case <-call.Done():
	case <-call.Late():
	}
	switch {
	case call.IsDone():
	case ctx.Err() != nil:
		return ctx.Err()
	default:
		return fmt.Errorf("no answer within %v", askTimeout)
	}
	a, _, err := call.Result()
	if err != nil {
		return err
	}
	if len(a.unusable) > 0 && s.servers.mayWarn() {
		s.Observer.Unusable(a.unusable)
	}
	for _, e := range a.found {
		if c.Has(e.Key()) {
			continue
		}
		e.Server = s.serverOf(e.Dial)
		c.Add(e, upstream.FromSource(s.Name), s.Name)
	}
	return nil
}

// awaitFound waits until all sources have been looked up once, and there is an
// upstream, unless the request may bring one.
func (all Sources) awaitFound(ctx context.Context) {
	var pending []<-chan struct{}
	for _, s := range all {
		if s.refresher != nil && !isClosed(s.refresher.tried) {
			pending = append(pending, s.refresher.tried)
		}
	}
	pool := all[0].pool
	if some := pool.Found.Some; !pool.Expands() && !isClosed(some) {
		pending = append(pending, some)
	}
	if len(pending) == 0 {
		return
	}
	timer := time.NewTimer(firstAnswerTimeout)
	defer timer.Stop()
	for _, c := range pending {
		select {
		case <-c:
		case <-timer.C:
			return
		case <-ctx.Done():
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// maxServers bounds the places that a source has in its pool for what it finds in
// handshakes, as clients decide how much that is.
const maxServers = 10_000

// servers are the places in the pool of what a source finds in handshakes, so that
// policies know them again.
type servers struct {
	mu sync.Mutex // guards what follows
	m  map[string]*upstream.Server
	// warned is when was told last that addresses are unusable.
	warned time.Time
}

// serverOf returns the place of an address, as the source spells it.
func (s *Source) serverOf(dial string) *upstream.Server {
	if known := s.servers.get(dial); known != nil {
		return known
	}
	return s.servers.put(dial, s.newServer(dial))
}

func (s *servers) get(dial string) *upstream.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.m[dial]
}

// put returns the place of the address, which is another one if somebody was faster.
func (s *servers) put(dial string, made *upstream.Server) *upstream.Server {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known, ok := s.m[dial]; ok {
		return known
	}
	if s.m == nil || len(s.m) >= maxServers {
		s.m = make(map[string]*upstream.Server)
	}
	s.m[dial] = made
	return made
}

// warnInterval is how often is told what was left out of an answer in a handshake, at most.
const warnInterval = time.Minute

func (s *servers) mayWarn() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if time.Since(s.warned) < warnInterval {
		return false
	}
	s.warned = time.Now()
	return true
}
