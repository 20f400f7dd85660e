package websocketproxy

import (
	"context"
	"errors"
	"net/http"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// A handshake that an upstream has got and not answered as it should may have failed
// because of the client: a path that takes for ever, a subprotocol that it repeats wrongly.
// So when there were enough of these, others are asked for the same, the witnesses, and only
// if one of them answers otherwise, the upstream is held to be doubtful. The client gets
// that answer, so finding out costs it nothing but time.

// witnesses is how many are asked.
const witnesses = 2

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
	if a != nil && a.choice.Choice != c.Choice {
		return a, nil, true // has overtaken it
	}
	f := c.Endpoint.Failures
	if !h.isDoubtful(a, refused) || c.Overdue || !process.table.Unanswered(f) || !h.doubts.Ask {
		return a, refused, false
	}
	if a != nil {
		a.leave() // it is held back, and its place is free
	}
	alike := false
	for i := range witnesses {
		w := t.candidates.Witness(c.Choice, i == 0)
		if w == nil {
			break
		}
		said, silent := h.ask(ctx, t, w)
		switch {
		case said != nil && !h.isDoubtful(said, nil):
			if a != nil {
				a.giveBack()
			}
			h.convict(c.Choice)
			return said, nil, true
		case ctx.Err() != nil:
			return a, silent, true
		case h.isDoubtful(said, silent):
			if a != nil {
				a.giveBack()
			}
			a, refused, alike = said, silent, true
		}
	}
	if alike {
		process.table.Acquit(f)
	}
	return a, refused, alike
}

// ask asks a witness, which is waited for until it is late.
func (h *Handler) ask(ctx context.Context, t *attempts, w *upstream.Choice) (*answer, *refusal) {
	ctx, cancel := context.WithTimeout(ctx, w.Late)
	defer cancel()
	c := picked{Choice: w}
	t.hs.attempt = t.hs.trace.Dial(w.Host.Address, t.retried)
	return h.attempt(ctx, t, c, t.hs, h.prepareFor(c, t.out, t.hs, t.repl))
}

// convict has an upstream be doubtful.
func (h *Handler) convict(c *upstream.Choice) {
	if process.table.Convict(c.Endpoint.Failures) {
		tellDoubt(h.logger, c.Host.Address, "others answer what it does not")
	}
}

// overtaking is others being asked while an upstream is late.
type overtaking struct {
	over     chan struct{} // closed when it is through
	won      *answer
	panicked any // of somebody's code
}

// exchange has the upstream of a choice answer. When it is late and that is enough to ask
// others, these are asked while it is waited for, and the first that opens a tunnel wins.
func (h *Handler) exchange(
	ctx context.Context, t *attempts, c *upstream.Choice, began time.Time, do func(context.Context) (*dial.Answer, error),
) (*dial.Answer, *answer, error) {
	if c.Endpoint.Failures == nil || c.IsWitness {
		answered, err := do(ctx)
		return answered, nil, err
	}
	inTime, giveUp := context.WithCancelCause(ctx)
	defer giveUp(nil)
	others, stop := context.WithCancel(ctx)
	defer stop()
	o := &overtaking{over: make(chan struct{})}
	timer := time.AfterFunc(c.Late-time.Since(began), func() {
		defer close(o.over)
		defer func() {
			if p := recover(); p != nil {
				o.panicked = p
			}
		}()
		if o.run(others, h, t, c); o.won != nil {
			giveUp(errOvertaken)
		}
	})
	answered, err := do(inTime)
	if timer.Stop() {
		return answered, nil, err
	}
	c.Overdue = true
	opened := err == nil && answered.StatusCode == http.StatusSwitchingProtocols
	if opened {
		stop()
	}
	<-o.over
	switch {
	case o.panicked != nil:
		if answered != nil {
			answered.Discard()
		}
		if o.won != nil {
			o.won.giveBack()
		}
		panic(o.panicked) // in the goroutine of the handshake, where it is dealt with
	case o.won == nil:
		return answered, nil, err
	case opened:
		o.won.giveBack()
		return answered, nil, nil
	case answered != nil:
		answered.Discard()
	}
	return nil, o.won, nil
}

// run asks the witnesses, all at once, as a client does not wait for long. The goroutine of
// the handshake does nothing else meanwhile but wait for the upstream.
func (o *overtaking) run(ctx context.Context, h *Handler, t *attempts, c *upstream.Choice) {
	if !process.table.Unanswered(c.Endpoint.Failures) || !h.doubts.Ask {
		return
	}
	type outcome struct {
		a        *answer
		refused  *refusal
		panicked any
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	outcomes := make(chan outcome, witnesses)
	asked := 0
	for i := range witnesses {
		w := t.candidates.Witness(c, i == 0)
		if w == nil {
			break
		}
		hs := *t.hs
		hs.client = nil // whose goroutine writes to it
		hs.attempt = hs.trace.Dial(w.Host.Address, t.retried)
		one := picked{Choice: w}
		out := h.prepareFor(one, t.out, &hs, t.repl)
		asked++
		go func() {
			var end outcome
			defer func() {
				end.panicked = recover()
				outcomes <- end
			}()
			end.a, end.refused = h.attempt(ctx, t, one, &hs, out)
		}()
	}
	alike := false
	for range asked {
		end := <-outcomes
		switch {
		case end.panicked != nil:
			o.panicked = end.panicked
		case o.won == nil && end.a != nil && !h.isDoubtful(end.a, nil):
			o.won = end.a
			cancel()
		case ctx.Err() == nil && h.isDoubtful(end.a, end.refused):
			alike = true
		}
		if end.a != nil && end.a != o.won {
			end.a.giveBack()
		}
	}
	switch {
	case o.won != nil:
		h.convict(c)
	case alike:
		process.table.Acquit(c.Endpoint.Failures)
	}
}
