package limit

import (
	"container/heap"
	"math/rand/v2"
	"time"
)

// limiter is what a proxy of the simulation asks.
type limiter interface {
	Begin(now time.Time, othersWait bool) Ticket
	End(t Ticket, now time.Time, outcome Outcome)
	Allows(now time.Time) bool
	Next(now time.Time) time.Time
}

// fixed is a limit that somebody has set.
type fixed struct{ most, count int }

func (f *fixed) Begin(time.Time, bool) Ticket   { f.count++; return Ticket{} }
func (f *fixed) End(Ticket, time.Time, Outcome) { f.count-- }
func (f *fixed) Allows(time.Time) bool          { return f.count < f.most }
func (f *fixed) Next(time.Time) time.Time       { return time.Time{} }

// node is a proxy with those that wait there.
type node struct {
	limiter
	waiting int
}

// job is a handshake.
type job struct {
	node    *node
	ticket  Ticket
	finish  float64       // how much each will have been given when it is through
	delay   time.Duration // after its work
	end     time.Time     // once its work is done
	outcome Outcome
}

// jobs is a heap.
type jobs struct {
	of   []*job
	less func(a, b *job) bool
}

func (j *jobs) Len() int           { return len(j.of) }
func (j *jobs) Less(a, b int) bool { return j.less(j.of[a], j.of[b]) }
func (j *jobs) Swap(a, b int)      { j.of[a], j.of[b] = j.of[b], j.of[a] }
func (j *jobs) Push(x any)         { j.of = append(j.of, x.(*job)) }
func (j *jobs) Pop() any {
	last := j.of[len(j.of)-1]
	j.of = j.of[:len(j.of)-1]
	return last
}

// storm are clients that all come at once to an upstream that shares its time among those
// that are under way: 200 a second, of up to 8, and less by 1/(1+(n-8)/50) beyond.
type storm struct {
	random *rand.Rand
	// work is what a handshake takes, 1 on average; nil if there is nothing to do.
	work func(r *rand.Rand) float64
	// after says what comes after the work: how long it still takes, and how it ends.
	after func(r *rand.Rand, n int) (time.Duration, Outcome)

	now     time.Time
	given   float64 // to each job since the beginning
	working jobs
	delayed jobs
	nodes   []*node

	served, failed, most int
	latest               time.Time // when the last one was served
}

func newStorm(seed uint64, clients, nodes int, newLimiter func(*rand.Rand) limiter) *storm {
	s := &storm{now: start, random: rand.New(rand.NewPCG(seed, 1)), work: (*rand.Rand).ExpFloat64}
	s.working.less = func(a, b *job) bool { return a.finish < b.finish }
	s.delayed.less = func(a, b *job) bool { return a.end.Before(b.end) }
	for i := range nodes {
		s.nodes = append(s.nodes, &node{limiter: newLimiter(s.random), waiting: (clients + i) / nodes})
	}
	return s
}

func withAuto(r *rand.Rand) limiter { return NewAuto(r.Float64) }

// run goes on until all are through, or until is over.
func (s *storm) run(until time.Duration) {
	for end := start.Add(until); s.now.Before(end); {
		for _, n := range s.nodes {
			for n.waiting > 0 && n.Allows(s.now) {
				n.waiting--
				s.begin(n)
			}
		}
		next, through := s.nextEvent()
		if next.IsZero() {
			return
		}
		s.advance(next)
		if through != nil {
			s.end(through)
		}
	}
}

func (s *storm) begin(n *node) {
	j := &job{node: n, ticket: n.Begin(s.now, n.waiting > 0)}
	if s.after != nil {
		j.delay, j.outcome = s.after(s.random, s.working.Len()+s.delayed.Len())
	}
	if s.work == nil || j.outcome == Failed {
		j.end = s.now.Add(j.delay)
		heap.Push(&s.delayed, j)
	} else {
		j.finish = s.given + s.work(s.random)
		heap.Push(&s.working, j)
	}
	s.most = max(s.most, s.working.Len()+s.delayed.Len())
}

// nextEvent is when something happens, and what if a handshake is through then.
func (s *storm) nextEvent() (next time.Time, through *job) {
	if s.working.Len() > 0 {
		through = s.working.of[0]
		next = s.now.Add(time.Duration(max(0, through.finish-s.given) / s.speed() * float64(time.Second)))
	}
	if s.delayed.Len() > 0 && (through == nil || s.delayed.of[0].end.Before(next)) {
		through = s.delayed.of[0]
		next = through.end
	}
	for _, n := range s.nodes {
		if n.waiting == 0 {
			continue
		}
		if at := n.Next(s.now); !at.IsZero() && (next.IsZero() || at.Before(next)) {
			next, through = at, nil
		}
	}
	return next, through
}

// speed is how much work is done for each in a second.
func (s *storm) speed() float64 {
	n := s.working.Len()
	if n <= 8 {
		return 200.0 / 8
	}
	return 200 / (1 + float64(n-8)/50) / float64(n)
}

func (s *storm) advance(to time.Time) {
	if s.working.Len() > 0 {
		s.given += to.Sub(s.now).Seconds() * s.speed()
	}
	s.now = to
}

func (s *storm) end(j *job) {
	if s.working.Len() > 0 && s.working.of[0] == j {
		heap.Pop(&s.working)
		if j.delay > 0 {
			j.end = s.now.Add(j.delay)
			heap.Push(&s.delayed, j)
			return
		}
	} else {
		heap.Pop(&s.delayed)
	}
	j.node.End(j.ticket, s.now, j.outcome)
	if j.outcome == Answered {
		s.served++
		s.latest = s.now
	} else {
		s.failed++
	}
}
