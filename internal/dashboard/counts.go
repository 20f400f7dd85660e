package dashboard

import (
	"maps"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// mostPairs bounds of how many upstreams of handlers there are counts, as addresses may
// depend on requests.
const mostPairs = 2000

// bounds are those of how long handshakes take.
var bounds = []time.Duration{
	5 * time.Millisecond, 10 * time.Millisecond, 25 * time.Millisecond, 50 * time.Millisecond, 100 * time.Millisecond,
	250 * time.Millisecond, 500 * time.Millisecond, time.Second, 2500 * time.Millisecond, 5 * time.Second, 10 * time.Second,
	30 * time.Second, time.Minute, 2 * time.Minute,
}

// counts are the numbers of a process.
type counts struct {
	mu sync.Mutex
	n  Numbers
}

// pairLocked has change change the counts of an upstream of a handler.
func (c *counts) pairLocked(handler, upstream string, change func(*PairNumbers)) {
	pair := Pair{handler, upstream}
	n, known := c.n.Pairs[pair]
	if !known && len(c.n.Pairs) >= mostPairs {
		return
	}
	if c.n.Pairs == nil {
		c.n.Pairs = make(map[Pair]PairNumbers)
	}
	change(&n)
	c.n.Pairs[pair] = n
}

func (c *counts) handlerLocked(handler string) HandlerNumbers {
	n, known := c.n.Handlers[handler]
	if !known {
		if c.n.Handlers == nil {
			c.n.Handlers = make(map[string]HandlerNumbers)
		}
		n = HandlerNumbers{Ended: make(map[string]uint64), Refused: make(map[string]uint64)}
		c.n.Handlers[handler] = n
	}
	return n
}

// snapshot is what has been counted.
func (c *counts) snapshot() Numbers {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := Numbers{maps.Clone(c.n.Pairs), maps.Clone(c.n.Handlers), maps.Clone(c.n.Took)}
	for pair, p := range n.Pairs {
		p.Failed = maps.Clone(p.Failed)
		n.Pairs[pair] = p
	}
	for name, h := range n.Handlers {
		n.Handlers[name] = HandlerNumbers{maps.Clone(h.Ended), maps.Clone(h.Refused)}
	}
	for address, took := range n.Took {
		n.Took[address] = Histogram{took.Bounds, append([]uint64(nil), took.Counts...)}
	}
	return n
}

// TunnelOpened is told of a tunnel.
func (b *Board) TunnelOpened(handler, upstream string) {
	b.counts.mu.Lock()
	defer b.counts.mu.Unlock()
	b.counts.pairLocked(handler, upstream, func(n *PairNumbers) {
		n.Open++
		n.Opened++
	})
}

// Attempted is told how long a handshake at an upstream has taken.
func (b *Board) Attempted(upstream string, took time.Duration) {
	c := &b.counts
	c.mu.Lock()
	defer c.mu.Unlock()
	h, known := c.n.Took[upstream]
	if !known {
		if len(c.n.Took) >= mostPairs {
			return
		}
		if c.n.Took == nil {
			c.n.Took = make(map[string]Histogram)
		}
		h = Histogram{bounds, make([]uint64, len(bounds)+1)}
		c.n.Took[upstream] = h
	}
	i := 0
	for i < len(bounds) && took > bounds[i] {
		i++
	}
	h.Counts[i]++
}

// TunnelEnded is told of a tunnel's end.
func (b *Board) TunnelEnded(o *tunnel.Outcome) {
	b.counts.ended(o)
	if !b.Wanted() {
		return
	}
	labels := make(map[string]string)
	for l := range o.Labels.All() {
		labels[l.Name] = shown(l.Value)
	}
	b.Add(Event{
		Labels: labels, At: time.Now(), Kind: Ended, Why: string(o.Reason), Handler: o.Handler, Upstream: o.Upstream, ClientIP: o.ClientIP,
		Tunnel: o.ID, Lasted: round(time.Since(o.Opened).Seconds()), Code: int(o.CloseCode), By: o.EndedBy,
	})
}

func (c *counts) ended(o *tunnel.Outcome) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pairLocked(o.Handler, o.Upstream, func(n *PairNumbers) {
		n.Open--
		n.Closed++
	})
	c.handlerLocked(o.Handler).Ended[string(o.Reason)]++
}

// HandshakeRefused is told of a refusal.
func (b *Board) HandshakeRefused(e Event) {
	b.counts.refused(&e)
	e.At, e.Kind = time.Now(), Refused
	b.Add(e)
}

func (c *counts) refused(e *Event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlerLocked(e.Handler).Refused[e.Why]++
	if e.Upstream != "" {
		c.pairLocked(e.Handler, e.Upstream, func(n *PairNumbers) {
			if n.Failed == nil {
				n.Failed = make(map[string]uint64)
			}
			n.Failed[e.Why]++
		})
	}
}
