package websocketproxy

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

const hostA, hostB, hostC = "a.test:80", "b.test:80", "c.test:80"

// inBubble runs a test in a bubble of its own time. When it has ended, nothing may be
// held.
func inBubble(t *testing.T, test func(t *testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		t.Cleanup(func() { expectNothingHeld(t) })
		test(t)
	})
}

// operate gives upstreams a state.
func operate(state string, addresses ...string) {
	for _, address := range addresses {
		// It says that it could not be stored.
		_ = process.operators.Set(nil, address, upstream.State{State: state, At: time.Now()}) //nolint:staticcheck // no context
	}
}

// reserve counts a tunnel at an upstream that no configuration names.
func reserve(dial string) *upstream.Host {
	p := upstream.NewPool(process.table)
	p.AddFixed(&upstream.Server{Weight: 1}, upstream.Address{HostPort: dial})
	defer p.Release()
	c, _ := p.Candidates(nil) // has no templates
	defer c.Close()
	chosen := c.Reserve(p.Fixed[0])
	process.table.HandshakeEnded(chosen, limit.Answered)
	return chosen.Host
}

// addressesOf are those of a handler's upstreams, as far as they have been found.
func addressesOf(h *Handler) (all []string) {
	for _, e := range h.pool.Standing() {
		all = append(all, e.Host.Address)
	}
	return all
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
