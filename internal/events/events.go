// Package events tells Caddy's events app what happens to upstreams and tunnels. Caddy
// calls the handlers of an event where that is emitted, and some run commands, or never
// return. So each configuration has one goroutine that emits, and a queue before it: a
// handler that takes long costs events, and nothing else.
//
// It knows of Caddy only how apps and events are, and of tunnels that some are moved. Its one lock is a leaf.
package events

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
)

// The events. What their data is stands in docs/operations.md.
const (
	UpstreamUp           = "upstream_up"
	UpstreamDown         = "upstream_down"
	UpstreamStateChanged = "upstream_state_changed"
	UpstreamEmpty        = "upstream_empty"
	UpstreamsChanged     = "upstreams_changed"
	TunnelsMoved         = "tunnels_moved"
	QueueFull            = "queue_full"
	AgentSaid            = "agent_said"
)

// Names are those of all events.
func Names() []string {
	return []string{
		UpstreamUp, UpstreamDown, UpstreamStateChanged, UpstreamEmpty, UpstreamsChanged, TunnelsMoved, QueueFull,
		AgentSaid,
	}
}

const (
	// capacity is how many events wait for their turn.
	capacity = 256
	// patience is how long a handler that is at work when its configuration is
	// unloaded may still take, before nobody waits for it any more.
	patience = time.Second
)

// Data is what is known of an event. It is not changed any more.
type Data map[string]any

// event is one that waits.
type event struct {
	name string
	data Data
}

// Process is the events of a process. The newest configuration in force gets them; if
// there is none, nobody does. Its zero value is ready.
type Process struct {
	dropped atomic.Uint64

	mu    sync.Mutex // guards what follows, and who sends to outlets
	inUse []*Outlet  // oldest first
	// rare is when an event about something was emitted last that may not be often.
	rare map[rarity]time.Time
}

// rarity is what may not be told often: an event, and what it is about.
type rarity struct{ name, about string }

// Dropped is how many events somebody wanted and has not got since the process started.
func (p *Process) Dropped() uint64 { return p.dropped.Load() }

// Emit tells an event, and waits for nothing.
func (p *Process) Emit(name string, data Data) {
	p.mu.Lock()
	o := p.offerLocked(event{name, data})
	p.mu.Unlock()
	if o != nil {
		o.log.Warn("events are lost, as a handler of events takes long or does not return", zap.String("event", name))
	}
}

// EmitRarely is Emit at most once in an interval for each thing that it may be about.
func (p *Process) EmitRarely(interval time.Duration, name, about string, data Data) {
	if p.isRare(interval, rarity{name, about}) {
		p.Emit(name, data)
	}
}

// isRare notes an event, unless there was the same in the interval before.
func (p *Process) isRare(interval time.Duration, what rarity) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	now := time.Now()
	if last, emitted := p.rare[what]; emitted && now.Sub(last) < interval {
		return false
	}
	if p.rare == nil {
		p.rare = make(map[rarity]time.Time)
	}
	maps.DeleteFunc(p.rare, func(_ rarity, last time.Time) bool { return now.Sub(last) >= interval })
	p.rare[what] = now
	return true
}

// offerLocked gives an event to who wants it. It returns the outlet that is to say that
// it loses events, when it has just begun to.
func (p *Process) offerLocked(e event) *Outlet {
	if len(p.inUse) == 0 {
		return nil
	}
	o := p.inUse[len(p.inUse)-1]
	if !o.wanted[e.name] {
		return nil
	}
	select {
	case o.queue <- e:
		// One that is slow has a place now and then; that is no line for each.
		o.loses = o.loses && len(o.queue) > capacity/2
		return nil
	default:
	}
	p.dropped.Add(1)
	if o.loses {
		return nil
	}
	o.loses = true
	return o
}

// Outlet is where the events of the process come out, for the handlers of one
// configuration.
type Outlet struct {
	process *Process
	log     *zap.Logger
	wants   func(name string) bool
	emit    func(name string, data map[string]any)

	queue chan event
	// last is closed when nothing more comes, and stop when what has come is of no
	// interest either; ended is closed by the goroutine.
	last, stop, ended chan struct{}

	// What follows is guarded by the process's lock: which events somebody wants, that
	// the goroutine runs, and that the last event was lost.
	wanted       map[string]bool
	opened, left bool
	loses        bool
}

func (p *Process) newOutlet(log *zap.Logger, wants func(string) bool, emit func(string, map[string]any)) *Outlet {
	return &Outlet{
		process: p, log: log, wants: wants, emit: emit,
		queue: make(chan event, capacity),
		last:  make(chan struct{}), stop: make(chan struct{}), ended: make(chan struct{}),
	}
}

// open has events come out here from now on.
func (o *Outlet) open() {
	wanted := make(map[string]bool)
	for _, name := range Names() {
		wanted[name] = o.wants(name)
	}
	o.process.mu.Lock()
	defer o.process.mu.Unlock()
	if o.opened || o.left {
		return
	}
	o.opened, o.wanted = true, wanted
	o.process.inUse = append(o.process.inUse, o)
	go o.run()
}

// Leave ends that. Events that still wait go to another configuration, if there is one.
// It waits for the handlers at work, but not for long; those that take longer keep a
// goroutine that ends when they return. It may be called again, and for nil.
func (o *Outlet) Leave() {
	if o == nil || !o.leave() {
		return
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-o.ended:
		return
	case <-timer.C:
		close(o.stop)
	}
	for { // what nobody gets
		select {
		case <-o.queue:
			o.process.dropped.Add(1)
		default:
			return
		}
	}
}

// leave takes the outlet out, and reports whether it has a goroutine that is to end.
func (o *Outlet) leave() bool {
	p := o.process
	p.mu.Lock()
	defer p.mu.Unlock()
	if o.left {
		return false
	}
	o.left = true
	if !o.opened {
		return false
	}
	p.inUse = slices.DeleteFunc(p.inUse, func(other *Outlet) bool { return other == o })
	for len(p.inUse) > 0 { // others have what has come
		select {
		case e := <-o.queue:
			p.offerLocked(e)
			continue
		default:
		}
		break
	}
	close(o.last)
	return true
}

// run emits one event after another.
func (o *Outlet) run() {
	defer close(o.ended)
	for {
		select {
		case <-o.stop:
			return
		case e := <-o.queue:
			o.deliver(e)
			continue
		default:
		}
		select {
		case e := <-o.queue:
			o.deliver(e)
		case <-o.last:
			if len(o.queue) == 0 {
				return
			}
		}
	}
}

// deliver emits an event. A handler that panics must not end the process.
func (o *Outlet) deliver(e event) {
	defer func() {
		if p := recover(); p != nil {
			o.log.Error("a handler of events has panicked", zap.String("event", e.name), zap.Any("problem", p))
		}
	}()
	o.emit(e.name, e.data)
}
