// Package health probes addresses and reports what it finds. It decides nothing and ends
// nothing: results count in the table of upstreams, and an observer is told. What a probe
// says, and by which means it connects, is given.
//
// A check's lock may be held while a checker's is taken; both are held while nothing else
// is called.
package health

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// Check is what a pool wants its upstreams to pass, with what a configuration
// gives to find out.
type Check struct {
	Config

	mu      sync.Mutex // guards what follows
	runs    bool       // the configuration is in force
	probers map[*upstream.Endpoint]*prober
}

// Config is what a check is made of.
type Config struct {
	// Key is the same for all that want the same.
	Key string
	// Interval is the time from one probe to the next, give or take a tenth.
	Interval time.Duration
	// Passes and Fails are how many in a row make an upstream up or down.
	Passes, Fails int
	// Probe returns what probes an endpoint: it tells what is wrong, and comes back
	// when its context ends.
	Probe func(e *upstream.Endpoint) func(ctx context.Context) error
	// Ask is there instead of Probe if an agent is asked, and what it says counts: there
	// are no passes and fails.
	Ask func(e *upstream.Endpoint) func(ctx context.Context) (Answer, error)
	// Table is where results count, and Checkers are those of the process.
	Table    *upstream.Table
	Checkers *Checkers
	Observer Observer
}

// Observer is told what probes find out. Nothing is asked of it. For an agent, Failed
// says that no answer has come, and Down and Up are not told.
type Observer interface {
	// Probed: a probe has found out something, whatever follows from that.
	Probed(address string, took time.Duration, err error)
	// Failed: a probe has failed, which changes nothing yet or any more.
	Failed(address string, err error)
	// Down: the address has failed often enough.
	Down(address string, err error)
	// Up: it has passed often enough.
	Up(address string)
	// OutOf: a probe could not be made, as this side has run out of something.
	OutOf(lack string, err error)
	// DownOtherwise: an address that is not checked any more is down by what is
	// checked instead.
	DownOtherwise(address string)
	// Said: what the agent has said has changed, or what is odd about that.
	Said(address string, before, now upstream.Word, problem string)
}

// NewCheck makes a check that has no endpoints yet.
func NewCheck(c Config) *Check {
	return &Check{Config: c, probers: make(map[*upstream.Endpoint]*prober)}
}

// Join gives e a checker, and has it probed if the configuration is in force.
func (c *Check) Join(e *upstream.Endpoint) {
	p := c.prober(e)
	p.ctx, p.cancel = context.WithCancel(context.Background())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probers[e] = p
	if c.runs {
		p.checker.attach(p)
	}
}

func (c *Check) prober(e *upstream.Endpoint) *prober {
	if c.Ask != nil {
		return &prober{check: c, checker: c.Checkers.join(c.Table.Heed(e, c.Key)), probe: c.Ask(e)}
	}
	probe := c.Probe(e)
	return &prober{
		check: c, checker: c.Checkers.join(c.Table.Judge(e, c.Key)),
		probe: func(ctx context.Context) (Answer, error) { return Answer{}, probe(ctx) },
	}
}

// Leave ends what join began. When it returns, nothing of the configuration is
// in use for e any more.
func (c *Check) Leave(e *upstream.Endpoint) {
	c.mu.Lock()
	p, joined := c.probers[e]
	delete(c.probers, e)
	c.mu.Unlock()
	if joined {
		p.checker.detach(p)
		c.Checkers.leave(p.checker)
		if c.Ask != nil {
			c.Table.Unheed(e)
			return
		}
		// In a reload, the new check has been at work already, but tunnels went by
		// this one as long as it was there.
		if c.Table.Unjudge(e) {
			c.Observer.DownOtherwise(e.Host.Address)
		}
	}
}

// Start begins to probe all that have joined.
func (c *Check) Start() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.runs = true
	for _, p := range c.probers {
		p.checker.attach(p)
	}
}

// Used returns the checks whose means an endpoint that has joined is probed with: those
// of configurations in force that want the same. The last one's are used.
func (c *Check) Used(e *upstream.Endpoint) (checks []*Check) {
	c.mu.Lock()
	of := c.probers[e].checker
	c.mu.Unlock()
	of.mu.Lock()
	defer of.mu.Unlock()
	for _, p := range of.probers {
		checks = append(checks, p.check)
	}
	return checks
}

// prober is what a configuration gives a checker to probe one upstream.
type prober struct {
	check   *Check
	checker *checker
	probe   func(ctx context.Context) (Answer, error)
	// ctx ends when the configuration is unloaded.
	ctx    context.Context
	cancel context.CancelFunc
	busy   sync.WaitGroup // a probe that uses it
}

// checkJitter is the part of the interval by which one differs at random.
const checkJitter = 0.1

// checker has an address probed. It is shared by all handlers and configurations that
// want the same check, and gets what it needs from the newest one that is in force.
type checker struct {
	verdict *upstream.Verdict
	users   int // guarded by the set's mu

	mu      sync.Mutex // guards what follows
	probers []*prober  // of configurations in force, newest last
	// stop ends the goroutine, and ended is closed by it; nil if there is none.
	stop, ended chan struct{}
}

// Checkers is the checkers of a process.
type Checkers struct {
	mu sync.Mutex
	m  map[*upstream.Verdict]*checker
}

// NewCheckers makes those of a process.
func NewCheckers() *Checkers {
	return &Checkers{m: make(map[*upstream.Verdict]*checker)}
}

// join returns the checker for a verdict, until leave.
func (s *Checkers) join(v *upstream.Verdict) *checker {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.m[v]
	if !ok {
		c = &checker{verdict: v}
		s.m[v] = c
	}
	c.users++
	return c
}

func (s *Checkers) leave(c *checker) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.users--; c.users == 0 {
		delete(s.m, c.verdict)
	}
}

// attach has the address probed with the means of p, which is the newest, from
// now on.
func (c *checker) attach(p *prober) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.probers = append(c.probers, p)
	if c.stop == nil {
		c.stop, c.ended = make(chan struct{}), make(chan struct{})
		go c.run(c.stop, c.ended)
	}
}

// detach takes p out. When it returns, p is not in use any more, and if it was
// the last one, the checker's goroutine has ended.
func (c *checker) detach(p *prober) {
	var ended chan struct{}
	c.mu.Lock()
	c.probers = slices.DeleteFunc(c.probers, func(other *prober) bool { return other == p })
	if len(c.probers) == 0 && c.stop != nil {
		close(c.stop)
		ended = c.ended
		c.stop, c.ended = nil, nil
	}
	c.mu.Unlock()
	p.cancel()
	p.busy.Wait()
	if ended != nil {
		<-ended
	}
}

// run makes one probe after another until stop is closed.
func (c *checker) run(stop chan struct{}, ended chan<- struct{}) {
	defer close(ended)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-stop:
			return
		case <-timer.C:
			timer.Reset(c.once(stop))
		}
	}
}

// once makes a probe and returns how long to wait for the next one.
func (c *checker) once(stop chan struct{}) time.Duration {
	p := c.use(stop)
	if p == nil {
		return time.Hour // for stop, which is closed
	}
	defer p.busy.Done()
	began := time.Now()
	answer, err := p.probe(p.ctx)
	if p.ctx.Err() != nil {
		return 0 // what it found out may be due to its end; others go on
	}
	if lack := dial.Shortage(err); lack != "" {
		p.check.Observer.OutOf(lack, err) // nothing was found out
	} else {
		p.check.Observer.Probed(c.verdict.Host.Address, time.Since(began), err)
		if p.check.Ask != nil {
			c.hear(p, answer, err)
		} else {
			c.note(p, err)
		}
	}
	return time.Until(began.Add(p.pause(rand.Float64)))
}

// pause is the time from one probe to the next.
func (p *prober) pause(random func() float64) time.Duration {
	return time.Duration(float64(p.check.Interval) * (1 - checkJitter + 2*checkJitter*random()))
}

// use returns the newest prober, whose busy has to be told the end of its use,
// or nil if stop is closed.
func (c *checker) use(stop chan struct{}) *prober {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stop != stop {
		return nil
	}
	p := c.probers[len(c.probers)-1]
	p.busy.Add(1)
	return p
}

// note reports what a probe has found out.
func (c *checker) note(p *prober, err error) {
	problem := ""
	if err != nil {
		problem = printable.Text(err.Error())
	}
	address := c.verdict.Host.Address
	changed, down := p.check.Table.Report(c.verdict, problem, p.check.Passes, p.check.Fails)
	switch {
	case !changed && err != nil:
		p.check.Observer.Failed(address, err)
	case !changed:
	case down:
		p.check.Observer.Down(address, err)
	default:
		p.check.Observer.Up(address)
	}
}

// hear takes note of what an agent has said, or that it has not.
func (c *checker) hear(p *prober, answer Answer, err error) {
	address, table := c.verdict.Host.Address, p.check.Table
	if err != nil {
		before, now := table.Miss(c.verdict, printable.Text(err.Error()))
		p.check.Observer.Failed(address, err)
		if before != now {
			p.check.Observer.Said(address, before, now, printable.Text(err.Error()))
		}
		return
	}
	before, now, isNews := table.Hear(c.verdict, answer.Word, answer.Problem)
	if before != now || isNews {
		p.check.Observer.Said(address, before, now, answer.Problem)
	}
}
