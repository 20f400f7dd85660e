package websocketproxy

import (
	"context"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// A handshake that an upstream has got and not answered as it should may have failed
// because of the client: a path that takes for ever, a subprotocol that it repeats wrongly.
// So when there were enough of these, others are asked for the same, the witnesses, and only
// if one of them answers otherwise, the upstream is held to be doubtful. The client gets
// that answer, so finding out costs it nothing but time.

// witnesses is how many are asked, and nextWitness how long one is waited for before the
// next is asked, too.
const (
	witnesses   = 2
	nextWitness = time.Second
)

var errOvertaken = errors.New("the upstream was late, and another one has answered")

// isDoubtful reports whether what has come of an attempt speaks against the upstream, if it
// is not the request that is to blame.
func (h *Handler) isDoubtful(a *answer, refused *refusal) bool {
	if refused != nil {
		return refused.doubtful
	}
	return a != nil && h.doubts.Statuses.Has(a.StatusCode)
}

// judge notes what has come of an attempt, and asks others where that decides something. It
// reports whether what it returns is for the client, whatever else could be tried.
func (h *Handler) judge(ctx context.Context, t *attempts, c picked, a *answer, refused *refusal) (*answer, *refusal, bool) {
	defer process.table.TrialOver(c.Choice)
	if a != nil && a.choice.Choice != c.Choice {
		return a, nil, true // has overtaken it
	}
	if !h.isDoubtful(a, refused) || c.Overdue || !process.table.Unanswered(c.Endpoint.Failures) || !h.doubts.Ask {
		return a, refused, false
	}
	if a != nil {
		a.leave() // it is held back, and its place is free
	}
	said := h.hear(ctx, t, c.Choice)
	if said.panicked == nil && !said.otherwise && !said.alike {
		return a, refused, false
	}
	if a != nil {
		a.giveBack()
	}
	if said.panicked != nil {
		panic(said.panicked)
	}
	t.hs.upstreamTook = said.took
	return said.a, said.refused, true
}

// outcome is what has come of an attempt at a witness.
type outcome struct {
	choice   *upstream.Choice
	a        *answer
	refused  *refusal
	took     time.Duration
	panicked any // of somebody's code
}

// testimony is what has come of asking others. otherwise tells that one has answered
// otherwise, whose outcome it is then, and alike that some have failed alike, of which it is
// the last. If there is neither, nobody could be asked or reached, or the client has gone.
type testimony struct {
	outcome

	otherwise, alike bool
	failed           []*upstream.Choice
}

// take takes an outcome into account.
func (s *testimony) take(end outcome, doubtful, over bool) {
	switch {
	case end.panicked != nil:
		s.panicked = end.panicked
		return
	case s.otherwise, over, end.a == nil && !doubtful:
		if end.a != nil {
			end.a.giveBack()
		}
		return
	case doubtful:
		s.alike = true
		s.failed = append(s.failed, end.choice)
	default:
		s.otherwise = true
	}
	if s.a != nil {
		s.a.giveBack()
	}
	s.outcome = end
}

// hear asks witnesses for what an upstream has not answered, and holds that against it or
// not. The second is asked when the first has failed, or has made the client wait.
func (h *Handler) hear(ctx context.Context, t *attempts, c *upstream.Choice) (said testimony) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome, witnesses)
	asked, open := 0, 0
	ask := func() {
		if asked < witnesses && ctx.Err() == nil && h.ask(ctx, t, c, asked == 0, outcomes) {
			open++
		}
		asked++
	}
	ask()
	next := time.NewTimer(nextWitness)
	defer next.Stop()
	for open > 0 {
		select {
		case <-next.C:
			ask()
		case end := <-outcomes:
			open--
			said.take(end, h.isDoubtful(end.a, end.refused), ctx.Err() != nil)
			if said.otherwise || said.panicked != nil {
				cancel()
			}
			ask()
		}
	}
	switch {
	case said.panicked != nil:
		if said.a != nil {
			said.a.giveBack()
		}
	case said.otherwise:
		h.convict(c)
		for _, w := range said.failed {
			if process.table.Unanswered(w.Endpoint.Failures) {
				h.convict(w)
			}
		}
	case said.alike:
		process.table.Acquit(c.Endpoint.Failures)
	}
	return said
}

// ask asks a witness, if there is one, which is waited for until it is late. The goroutine
// of the handshake waits meanwhile, so nothing of that changes.
func (h *Handler) ask(ctx context.Context, t *attempts, c *upstream.Choice, first bool, to chan<- outcome) bool {
	w := t.candidates.Witness(c, first)
	if w == nil {
		return false
	}
	t.witnesses++
	hs := *t.hs
	hs.client = nil // whose goroutine writes to it
	hs.attempt = hs.trace.Dial(w.Host.Address, t.retried+t.witnesses)
	one := picked{Choice: w}
	one.header, one.visit = t.client.Came(w.Endpoint)
	end := outcome{choice: w}
	var out *http.Request
	if end.panicked = caught(func() { out = h.prepareFor(one, t.out, &hs, t.repl) }); end.panicked != nil {
		to <- end // has room for all
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, w.Late)
	go func() { // hear waits for it
		defer cancel()
		end.panicked = caught(func() { end.a, end.refused = h.attempt(ctx, t, one, &hs, out) })
		end.took = hs.upstreamTook
		to <- end
	}()
	return true
}

// caught returns what somebody's code has panicked with, if it has.
func caught(do func()) (panicked any) {
	defer func() { panicked = recover() }()
	do()
	return nil
}

// convict has an upstream be doubtful.
func (h *Handler) convict(c *upstream.Choice) {
	if process.table.Convict(c.Endpoint.Failures) {
		tellDoubt(h.logger, c.Host.Address, "others answer what it does not")
	}
}

// overtaking is others being asked while an upstream is late.
type overtaking struct {
	over sync.WaitGroup // until it is through
	said testimony
}

// exchange has the upstream of a choice answer. When it is late and that is enough to ask
// others, these are asked while it is waited for, and the first that answers wins.
func (h *Handler) exchange(
	ctx context.Context, t *attempts, c *upstream.Choice, began time.Time, do func() (*dial.Answer, error),
) (*dial.Answer, *answer, error) {
	if c.Endpoint.Failures == nil || c.IsWitness {
		answered, err := do()
		return answered, nil, err
	}
	o := new(overtaking)
	o.over.Add(1)
	timer := time.AfterFunc(c.Late-time.Since(began), func() {
		defer o.over.Done()
		if o.run(ctx, h, t, c, began); o.said.otherwise {
			t.giveUp(errOvertaken)
		}
	})
	returned := false
	defer func() {
		if returned || timer.Stop() {
			return
		}
		t.giveUp(nil) // somebody's code has panicked, and nobody wants what others answer
		if o.over.Wait(); o.said.a != nil {
			o.said.a.giveBack()
		}
	}()
	answered, err := do()
	returned = true
	if timer.Stop() {
		return answered, nil, err
	}
	c.Overdue = true
	opened := err == nil && answered.StatusCode == http.StatusSwitchingProtocols
	if opened {
		t.giveUp(nil)
	}
	o.over.Wait()
	switch {
	case o.said.panicked != nil:
		if answered != nil {
			answered.Discard()
		}
		panic(o.said.panicked) // in the goroutine of the handshake, where it is dealt with
	case !o.said.otherwise:
		return answered, nil, err
	case opened:
		o.said.a.giveBack()
		return answered, nil, nil
	case answered != nil:
		answered.Discard()
	}
	return nil, o.said.a, nil
}

// run asks the witnesses, for as long as the upstream is waited for. The goroutine of the
// handshake does nothing else meanwhile.
func (o *overtaking) run(ctx context.Context, h *Handler, t *attempts, c *upstream.Choice, began time.Time) {
	defer func() {
		if p := recover(); p != nil {
			o.said = testimony{outcome: outcome{panicked: p}}
		}
	}()
	if !process.table.Unanswered(c.Endpoint.Failures) || !h.doubts.Ask {
		return
	}
	if h.handshake > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, began.Add(h.handshake))
		defer cancel()
	}
	if o.said = h.hear(ctx, t, c); !o.said.otherwise && o.said.a != nil {
		o.said.a.giveBack() // the upstream may still answer better
	}
}
