package tunnel

import (
	"container/heap"
	"slices"
	"sync"
	"time"
)

// pacer ends tunnels when it is their turn. All who want that share its goroutine,
// which lasts as long as there is something to do.
type pacer struct {
	// begun is told what has begun; nil if nobody wants to know.
	begun func([]Move)

	mu    sync.Mutex // guards what follows; a leaf
	news  []*appointment
	awake chan struct{} // tells that there are news; nil without the goroutine
}

// appointment is that a tunnel is to end at some time.
type appointment struct {
	tunnel *Tunnel
	at     time.Time
	due    func(*Tunnel) (Ending, bool)
	cause  cause
	number int // of those at the same time, the lower one is first
	place  int // in the agenda
}

// Move is that tunnels begin to be ended one after another, for the same cause. Each
// tunnel is told once for it.
type Move struct {
	Reason Reason
	By     string // who wants it, if that is somebody by name
	// Tunnels is how many, and Upstreams are where they are.
	Tunnels   int
	Upstreams []string
}

// OnMove has begun told, from the goroutine that ends tunnels, what EndOneByOne begins.
// That is to be said before there are tunnels.
func (r *Registry) OnMove(begun func([]Move)) { r.pacer.begun = begun }

// cause is why a tunnel is to end. Those who have the same one mean the same.
type cause struct {
	tunnel *Tunnel
	why    Reason
	by     string
}

// EndOneByOne begins to end tunnels one after another over a period, those first in
// which nothing has happened for the longest time, as due says: it is asked while
// the turn of each is waited for, and right before its end. One that is to end for
// the same cause already does so at the earlier time. It goes on until the process
// exits, which has its own pace.
func (r *Registry) EndOneByOne(tunnels []*Tunnel, period time.Duration, due func(*Tunnel) (Ending, bool)) {
	if len(tunnels) == 0 {
		return
	}
	IdleFirst(tunnels)
	start, all := time.Now(), make([]*appointment, len(tunnels))
	for i, t := range tunnels {
		all[i] = &appointment{tunnel: t, at: start.Add(turn(i, len(tunnels), period)), due: due}
	}
	p := &r.pacer
	p.mu.Lock()
	defer p.mu.Unlock()
	p.news = append(p.news, all...)
	if p.awake == nil {
		p.awake = make(chan struct{}, 1)
		go p.run(p.awake, r.ExitBegun())
		return
	}
	select {
	case p.awake <- struct{}{}:
	default: // it has been told already
	}
}

// run keeps the appointments until there are none, or stop is closed.
func (p *pacer) run(awake, stop <-chan struct{}) {
	a := agenda{by: make(map[cause]*appointment)}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for p.look(&a) {
		next := a.all[0]
		timer.Reset(min(time.Until(next.at), SweepInterval))
		select {
		case <-stop:
			return // what is wanted from now on is of no interest either
		case <-awake:
		case <-next.tunnel.done:
		case <-timer.C:
		}
	}
}

// look ends the tunnels whose turn it is, and reports whether others are left. If
// not, the goroutine has to end.
func (p *pacer) look(a *agenda) bool {
	for {
		p.mu.Lock()
		news := p.news
		p.news = nil
		if len(news) == 0 && len(a.all) == 0 {
			p.awake = nil
			p.mu.Unlock()
			return false
		}
		p.mu.Unlock()
		if moves := a.add(news); len(moves) > 0 && p.begun != nil {
			p.begun(moves)
		}
		if a.keep(); len(a.all) > 0 {
			return true
		}
	}
}

// agenda is the appointments by time, a heap, and by cause.
type agenda struct {
	all []*appointment
	by  map[cause]*appointment

	added int // how many there have been
}

// add notes appointments. Tunnels that have ended are forgotten before, so that
// there are no more of them than come to be between two calls. It returns what is new.
func (a *agenda) add(news []*appointment) []Move {
	if len(news) == 0 {
		return nil
	}
	var begun moves
	for _, old := range slices.Clone(a.all) {
		if old.tunnel.isOver() {
			a.remove(old)
		}
	}
	for _, n := range news {
		e, is := n.due(n.tunnel)
		if !is || n.tunnel.isOver() {
			continue
		}
		n.cause = cause{n.tunnel, e.Reason, e.By}
		if old := a.by[n.cause]; old != nil {
			if old.isDue() && !n.at.Before(old.at) {
				continue
			}
			a.remove(old)
		} else {
			begun.add(n)
		}
		a.added++
		a.by[n.cause], n.number = n, a.added
		heap.Push(a, n)
	}
	return begun.all
}

// moves collects what begins.
type moves struct {
	all  []Move
	seen map[place]bool // the upstreams of each
}

// place is where a move is under way.
type place struct {
	why          Reason
	by, upstream string
}

func (m *moves) add(n *appointment) {
	i := slices.IndexFunc(m.all, func(other Move) bool { return other.Reason == n.cause.why && other.By == n.cause.by })
	if i < 0 {
		i = len(m.all)
		m.all = append(m.all, Move{Reason: n.cause.why, By: n.cause.by})
	}
	one := &m.all[i]
	one.Tunnels++
	if at := (place{one.Reason, one.By, n.tunnel.Upstream}); !m.seen[at] {
		if m.seen == nil {
			m.seen = make(map[place]bool)
		}
		m.seen[at] = true
		one.Upstreams = append(one.Upstreams, at.upstream)
	}
}

// keep ends the tunnels whose turn it is. It does not wait for those that have ended
// by themselves, or are not to end any more.
func (a *agenda) keep() {
	for len(a.all) > 0 {
		next := a.all[0]
		e, is := next.due(next.tunnel)
		switch {
		case !is || next.tunnel.isOver():
		case time.Now().Before(next.at):
			return
		default:
			next.tunnel.End(e)
		}
		a.remove(next)
	}
}

func (a *agenda) remove(n *appointment) {
	delete(a.by, n.cause)
	heap.Remove(a, n.place)
}

func (n *appointment) isDue() bool {
	_, is := n.due(n.tunnel)
	return is
}

// isOver reports whether nothing of the tunnel is in use any more.
func (t *Tunnel) isOver() bool {
	select {
	case <-t.done:
		return true
	default:
		return false
	}
}

// The rest implements heap.Interface.

func (a *agenda) Len() int { return len(a.all) }

func (a *agenda) Less(i, j int) bool {
	m, n := a.all[i], a.all[j]
	return m.at.Before(n.at) || m.at.Equal(n.at) && m.number < n.number
}

func (a *agenda) Swap(i, j int) {
	a.all[i], a.all[j] = a.all[j], a.all[i]
	a.all[i].place, a.all[j].place = i, j
}

func (a *agenda) Push(x any) {
	n, _ := x.(*appointment)
	n.place = len(a.all)
	a.all = append(a.all, n)
}

func (a *agenda) Pop() any {
	last := len(a.all) - 1
	n := a.all[last]
	a.all[last] = nil
	a.all = a.all[:last]
	return n
}
