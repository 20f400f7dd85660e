package dashboard

import (
	"maps"
	"sync"
	"time"
)

// bounds are those of how long handshakes take.
var bounds = []time.Duration{5 * time.Millisecond, 10 * time.Millisecond, time.Second}

// counts are the numbers of a fake.
type counts struct {
	mu sync.Mutex
	n  Numbers
}

// pairLocked lets a function change the counts of an upstream of a handler.
func (c *counts) pairLocked(handler, upstream string, change func(*PairNumbers)) {
	pair := Pair{handler, upstream}
	n := c.n.Pairs[pair]
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
		n = HandlerNumbers{Ended: make(map[string]uint64), Refused: make(map[string]uint64), Codes: make(map[string]uint64)}
		c.n.Handlers[handler] = n
	}
	return n
}

// Numbers implements Backend.
func (c *counts) Numbers() Numbers {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.n
	n.Pairs, n.Handlers, n.Took = maps.Clone(n.Pairs), maps.Clone(n.Handlers), maps.Clone(n.Took)
	for pair, p := range n.Pairs {
		p.Failed = maps.Clone(p.Failed)
		n.Pairs[pair] = p
	}
	for name, h := range n.Handlers {
		h.Ended, h.Refused, h.Codes = maps.Clone(h.Ended), maps.Clone(h.Refused), maps.Clone(h.Codes)
		n.Handlers[name] = h
	}
	for address, took := range n.Took {
		n.Took[address] = Histogram{took.Bounds, append([]uint64(nil), took.Counts...)}
	}
	return n
}

func (c *counts) opened() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pairLocked("chat", "10.0.0.1:80", func(n *PairNumbers) {
		n.Open++
		n.Opened++
	})
	h := c.handlerLocked("chat")
	h.Open++
	h.Opened++
	c.n.Handlers["chat"] = h
}

func (c *counts) ended(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.pairLocked("chat", "10.0.0.1:80", func(n *PairNumbers) {
		n.Open--
		n.Closed++
	})
	h := c.handlerLocked("chat")
	h.Open--
	h.Ended[reason]++
	c.n.Handlers["chat"] = h
}

// closed is ended by an upstream's Close with a status.
func (c *counts) closed(code string) {
	c.ended("upstream_closed")
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlerLocked("chat").Codes[code]++
}

func (c *counts) refused(cause string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handlerLocked("chat").Refused[cause]++
	c.pairLocked("chat", "10.0.0.2:80", func(n *PairNumbers) {
		if n.Failed == nil {
			n.Failed = make(map[string]uint64)
		}
		n.Failed[cause]++
	})
}

// attempted counts a handshake that has taken at most 10 ms.
func (c *counts) attempted(upstream string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n.Took == nil {
		c.n.Took = make(map[string]Histogram)
	}
	if _, known := c.n.Took[upstream]; !known {
		c.n.Took[upstream] = Histogram{bounds, make([]uint64, len(bounds)+1)}
	}
	c.n.Took[upstream].Counts[1]++
}
