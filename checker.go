package websocketproxy

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

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

// checkerSet is the checkers of a process.
type checkerSet struct {
	mu sync.Mutex
	m  map[*upstream.Verdict]*checker
}

var checkers = checkerSet{m: make(map[*upstream.Verdict]*checker)}

// join returns the checker for a verdict, until leave.
func (s *checkerSet) join(v *upstream.Verdict) *checker {
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

func (s *checkerSet) leave(c *checker) {
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
	err := p.probe()
	if p.ctx.Err() != nil {
		return 0 // what it found out may be due to its end; others go on
	}
	if lack := dial.Shortage(err); lack != "" {
		tellShortage(p.check.logger, lack, err) // nothing was found out
	} else {
		c.note(p, err)
	}
	return time.Until(began.Add(p.pause(rand.Float64)))
}

// pause is the time from one probe to the next.
func (p *prober) pause(random func() float64) time.Duration {
	return time.Duration(float64(p.check.settings.Interval) * (1 - checkJitter + 2*checkJitter*random()))
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
	changed, down := hosts.Report(c.verdict, problem, p.check.settings.Passes, p.check.settings.Fails)
	switch {
	case !changed && err != nil:
		if l := p.check.logger.Check(zapcore.DebugLevel, "probe failed"); l != nil {
			l.Write(zap.String("address", c.verdict.Host.Address), failure(err))
		}
	case !changed:
	case down:
		p.check.logger.Warn("upstream is unhealthy", zap.String("address", c.verdict.Host.Address), failure(err))
	default:
		p.check.logger.Info("upstream is healthy again", zap.String("address", c.verdict.Host.Address))
	}
}
