package websocketproxy

import (
	"math/rand/v2"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// checkJitter is the part of the interval by which one differs at random.
const checkJitter = 0.1

// checker knows whether an address passes a check. It is shared by all handlers
// and configurations that want the same check, and gets what it needs to probe
// from the newest one that is in force.
type checker struct {
	host *host
	key  string // of the check

	// All are guarded by hosts.mu.
	// endpoints are those that the check is for. Each has a copy of down, so that
	// a choice need not look here.
	endpoints []*endpoint
	probers   []*prober // of configurations in force, newest last
	// stop ends the goroutine, and ended is closed by it; nil if there is none.
	stop, ended chan struct{}
	down        bool
	against     int       // probes in a row that speak against down
	checked     time.Time // zero: never
	lastError   string    // of the last probe that has failed, until the address is up
}

// acquireChecker has an endpoint checked, by the checker that its host has for
// that or a new one.
func (t *hostTable) acquireChecker(e *endpoint, key string) *checker {
	t.mu.Lock()
	defer t.mu.Unlock()
	h := e.host
	i := slices.IndexFunc(h.checkers, func(c *checker) bool { return c.key == key })
	if i < 0 {
		i = len(h.checkers)
		h.checkers = append(h.checkers, &checker{host: h, key: key})
	}
	c := h.checkers[i]
	c.endpoints = append(c.endpoints, e)
	e.checker, e.down = c, c.down
	return c
}

// releaseChecker takes that back. With the last endpoint, what the checker knows
// is forgotten. It reports whether the address is down by what is checked instead.
func (t *hostTable) releaseChecker(e *endpoint) (isDown bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c := e.checker
	if c.endpoints = without(c.endpoints, e); len(c.endpoints) > 0 {
		return false
	}
	c.host.checkers = slices.DeleteFunc(c.host.checkers, func(other *checker) bool { return other == c })
	return slices.ContainsFunc(c.host.checkers, func(other *checker) bool { return other.down })
}

// isDown reports whether h has failed a check. If nobody makes that any more, a
// reload has changed it, and whatever is checked instead counts.
func (t *hostTable) isDown(h *host, check string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	down := false
	for _, c := range h.checkers {
		if c.key == check {
			return c.down
		}
		down = down || c.down
	}
	return down
}

// healthLocked returns what operators see of the checks of h. It is down if one
// of them says so.
func (h *host) healthLocked() (health, lastError string, checked time.Time) {
	health = upstream.Unchecked
	for _, c := range h.checkers {
		switch {
		case c.down:
			health = upstream.Down
		case health == upstream.Unchecked && !c.checked.IsZero():
			health = upstream.Up
		}
		if lastError == "" || c.down {
			lastError = c.lastError
		}
		checked = upstream.Later(checked, c.checked)
	}
	return health, lastError, checked
}

// attach has the address probed with the means of p, which is the newest, from
// now on.
func (c *checker) attach(p *prober) {
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
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
	hosts.mu.Lock()
	c.probers = slices.DeleteFunc(c.probers, func(other *prober) bool { return other == p })
	if len(c.probers) == 0 && c.stop != nil {
		close(c.stop)
		ended = c.ended
		c.stop, c.ended = nil, nil
	}
	hosts.mu.Unlock()
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
	hosts.mu.Lock()
	defer hosts.mu.Unlock()
	if c.stop != stop {
		return nil
	}
	p := c.probers[len(c.probers)-1]
	p.busy.Add(1)
	return p
}

// note takes note of what a probe has found out, and acts if that changes what
// the address is.
func (c *checker) note(p *prober, err error) {
	hosts.mu.Lock()
	changed := c.countLocked(err, p.check.settings.Passes, p.check.settings.Fails)
	down, concerned := c.down, slices.Clone(c.endpoints)
	hosts.mu.Unlock()
	switch {
	case !changed && err != nil:
		if l := p.check.logger.Check(zapcore.DebugLevel, "probe failed"); l != nil {
			l.Write(zap.String("address", c.host.address), failure(err))
		}
	case !changed:
	case down:
		p.check.logger.Warn("upstream is unhealthy", zap.String("address", c.host.address), failure(err))
		evictions.unhealthy(c.host.address)
	default:
		p.check.logger.Info("upstream is healthy again", zap.String("address", c.host.address))
		recovered(concerned)
	}
}

func (c *checker) setDownLocked(is bool) {
	c.down = is
	for _, e := range c.endpoints {
		e.down = is
	}
}

// countLocked counts a probe, and reports whether it was the last one that the
// address needed to be down or up.
func (c *checker) countLocked(err error, passes, fails int) (changed bool) {
	c.checked = time.Now()
	failed, needed := err != nil, fails
	if c.down {
		needed = passes
	}
	if failed == c.down {
		c.against = 0
	} else if c.against++; c.against >= needed {
		c.against, changed = 0, true
		c.setDownLocked(failed)
	}
	switch {
	case failed:
		c.lastError = printable.Text(err.Error())
	case !c.down:
		c.lastError = ""
	}
	return changed
}
