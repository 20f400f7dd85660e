package websocketproxy

import (
	"context"
	"net/http"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/dial"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/forward"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/guest"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/limit"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/settings"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/sticky"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/trace"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// attempts are what one handshake has tried so far.
type attempts struct {
	*settings.Retry

	guest      *guest.Policy
	client     *sticky.Client
	candidates *upstream.Candidates
	began      time.Time
	giveUp     context.CancelCauseFunc // ends all that is under way
	retried    int
	witnesses  int  // that were asked besides
	gaveUp     bool // in the queue
	trace      *trace.Handshake
	// last is why there is no answer yet; nil if nothing has been tried.
	last *refusal
	// What the handshake asks each upstream for.
	hs   *clientHandshake
	out  *http.Request
	repl *caddy.Replacer
	// kept is the last answer, if others are asked whether they have a better one.
	// Its place at the upstream is given back.
	kept *answer
}

// picked is a choice, and what the client gets to know of it.
type picked struct {
	*upstream.Choice

	header http.Header   // that the policy has set, such as a cookie
	visit  *sticky.Visit // what is remembered of the client; nil if nothing is
}

// leave gives back what was counted.
func (p *picked) leave() {
	p.visit.Leave()
	process.table.GiveBack(p.Choice)
}

// connect chooses an upstream and performs the handshake there, on another one
// if that fails early. The caller has to give the answer back.
func (h *Handler) connect(r *http.Request, hs *clientHandshake) (*answer, *refusal) {
	ctx, giveUp := h.live.UntilExit(r.Context())
	defer giveUp(nil)
	process.operators.Await(ctx)
	repl, _ := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.websocket_proxy.tunnel.id", hs.tunnelID)
	candidates, err := h.pool.Candidates(expander(repl))
	if err != nil {
		return nil, &refusal{cause: causeBadAddress, status: http.StatusBadGateway, err: err}
	}
	defer candidates.Close()
	last := h.discover(ctx, candidates, r)
	if last != nil && last.cause != causeNoUpstream {
		return nil, last
	}
	h.setProxyProtocol(r)
	out := h.outbound(r, hs)
	asked := h.askedOf(r, out)
	if h.asksAllAlike(hs) {
		hs.Apply(out)
	}
	candidates.Waiting = &hs.counts.Queue
	candidates.Client, _ = upstream.ClientOf(clientIP(r))
	t := attempts{
		Retry: &h.retry, guest: h.guest, client: h.sticky.Know(asked, candidates), candidates: candidates,
		began: time.Now(), giveUp: giveUp, last: last, trace: hs.trace, hs: hs, out: out, repl: repl,
	}
	if h.byKey(candidates, repl) || t.client.IsKeyless() {
		hs.counts.Keyless.Add(1)
	}
	defer func() {
		t.drop()
		hs.queued, hs.gaveUp, hs.retries = candidates.Waited, t.gaveUp, t.retried+t.witnesses
	}()
	for {
		chosen, refused := t.next(ctx, asked)
		if refused != nil {
			return t.settle(nil, refused)
		}
		hs.attempt = hs.trace.Dial(chosen.Host.Address, t.retried)
		a, refused := h.attempt(ctx, &t, chosen, hs, h.prepareFor(chosen, out, hs, repl))
		a, refused, judged := h.judge(ctx, &t, chosen, a, refused)
		if judged && a != nil { // placeholders are about the one that has answered
			setUpstream(repl, a.choice.Endpoint.Address, a.choice.Tunnels, a.choice.Endpoint.Server.MaxTunnels, a.choice.Fails)
		}
		if judged || !t.goOn(a, refused) {
			return t.settle(a, refused)
		}
		h.logRetry(chosen, t.last)
	}
}

// byKey has a handshake go by its key, if the policy wants one. It reports whether that is
// missed.
func (h *Handler) byKey(c *upstream.Candidates, repl *caddy.Replacer) (isMissed bool) {
	return h.policy != nil && c.ByKey(h.policy.KeyOf(repl))
}

// next chooses an upstream, in as many rounds as there is time for.
func (t *attempts) next(ctx context.Context, asked *http.Request) (picked, *refusal) {
	for {
		chosen, refused := t.Pick(ctx, asked)
		if chosen.Choice != nil || refused != nil {
			return chosen, refused
		}
		if refused := t.wait(ctx); refused != nil {
			return picked{}, refused
		}
		t.candidates.NextRound()
	}
}

// Pick chooses an upstream of this round, if there is one. A policy of another module
// is not waited for: what it would choose when there is a place is not known.
func (t *attempts) Pick(ctx context.Context, asked *http.Request) (picked, *refusal) {
	if t.guest != nil {
		chosen, header := t.guest.Pick(t.candidates, asked)
		return picked{Choice: chosen, header: header}, nil
	}
	t.client.Place(true)
	before := t.candidates.Waited
	chosen, err := t.candidates.Next(ctx)
	waited := t.candidates.Waited - before
	if err != nil {
		t.gaveUp = waited > 0 // this time
		refused := refuseQueued(ctx, t.candidates, err)
		t.trace.Queued(waited, string(refused.cause))
		return picked{}, refused
	}
	t.trace.Queued(waited, "")
	p := picked{Choice: chosen}
	if chosen != nil {
		p.header, p.visit = t.client.Came(chosen.Endpoint)
	}
	return p, nil
}

// wait waits for the next round with all upstreams. It returns why there is none.
func (t *attempts) wait(ctx context.Context) *refusal {
	if t.last == nil {
		t.last = refuseNoUpstream()
	}
	if t.took()+t.Interval >= t.Duration {
		return t.last
	}
	select {
	case <-time.After(t.Interval):
		return nil
	case <-ctx.Done():
		return refuseUpstream(ctx, t.last.err, "waiting for an upstream", causeHandshakeTimeout, causeNoUpstream)
	}
}

// took is how long has been tried, without the time in the queue.
func (t *attempts) took() time.Duration {
	return time.Since(t.began) - t.candidates.Waited
}

// goOn reports whether another upstream is tried after what has come of an attempt,
// and takes note of that.
func (t *attempts) goOn(a *answer, refused *refusal) bool {
	switch {
	case refused != nil && !refused.retry,
		a != nil && !t.IsRetried(a.StatusCode),
		t.Limit >= 0 && t.retried >= t.Limit,
		t.Duration > 0 && t.took() >= t.Duration:
		return false
	}
	t.retried++
	if a != nil {
		t.keep(a)
		refused = refuseAnswered(a)
	}
	t.last = refused
	return true
}

// keep keeps an answer back.
func (t *attempts) keep(a *answer) {
	t.drop()
	t.kept = a
	a.leave()
}

// drop ends the use of the answer that was kept, if any.
func (t *attempts) drop() {
	if t.kept != nil {
		t.kept.giveBack()
		t.kept = nil
	}
}

// settle returns what the client gets: the last answer there was, if there is
// somebody to get it.
func (t *attempts) settle(a *answer, refused *refusal) (*answer, *refusal) {
	if refused == nil || t.kept == nil || refused.cause == causeClientGone || refused.cause == causeShutdown {
		return a, refused
	}
	a, t.kept = t.kept, nil
	return a, nil
}

// attempt performs the handshake with one upstream, and gives its place back if
// that comes to nothing.
func (h *Handler) attempt(
	ctx context.Context, t *attempts, c picked, hs *clientHandshake, out *http.Request,
) (a *answer, refused *refusal) {
	began, span := time.Now(), hs.attempt
	defer func() {
		own, why := a, refused
		if a != nil && a.choice.Choice != c.Choice { // a witness has overtaken it
			own, why = nil, &refusal{cause: causeHandshakeTimeout, err: errOvertaken}
		}
		if c.IsWitness || !h.isDoubtful(own, why) { // or others are asked first
			process.table.TrialOver(c.Choice)
		}
		hs.upstreamTook = time.Since(began)
		hs.attempted(c, own, why)
		span.Done(endOf(own, why))
		process.table.HandshakeEnded(c.Choice, outcomeOf(own, why))
		switch {
		case own == nil: // also if somebody's code has panicked
			c.leave()
		case own.opens():
			process.table.Answered(c.Choice, t.candidates.Client, hs.upstreamTook)
		}
		if a != nil && own == nil {
			hs.upstreamTook = a.took
		}
	}()
	return h.handshakeAt(ctx, t, c, hs, out)
}

// handshakeAt performs the handshake with one upstream, within handshake_timeout.
func (h *Handler) handshakeAt(
	ctx context.Context, t *attempts, c picked, hs *clientHandshake, out *http.Request,
) (*answer, *refusal) {
	began, to, dialer := time.Now(), targetOf(c.Endpoint.Address), h.transport.Dialer
	if h.handshake > 0 {
		dialer.By = began.Add(h.handshake)
	}
	conn, err := dialer.Dial(ctx, to, h.transport.tlsFor(to, t.repl))
	if err != nil {
		// It is the upstream that has taken the time, unless that of the request is over.
		failed := causeDialFailed
		if dial.IsTLS(err) {
			failed = causeTLSFailed
		}
		refused := refuseUpstream(ctx, err, "dialing", causeDialTimeout, failed)
		switch refused.cause {
		case causeDialTimeout, causeDialFailed, causeTLSFailed:
			refused.retry = true
			h.noteFailure(c, err)
		case causeExhausted:
			refused.retry = true // there may be ports for another address
			tellShortage(h.logger, refused.lack, err)
		}
		refused.upstream = c.Host.Address
		return nil, refused
	}
	answered, other, err := h.exchange(ctx, t, c.Choice, began, func() (*dial.Answer, error) {
		return dialer.Exchange(ctx, conn, out, &hs.Offer, func(by time.Time, resp *http.Response) {
			if hs.client != nil {
				forward.Inform(by, hs.client, resp)
			}
		})
	})
	switch {
	case other != nil:
		return other, nil
	case err != nil:
		refused := refuseUnanswered(err)
		refused.upstream = c.Host.Address
		return nil, refused
	}
	if answered.StatusCode == http.StatusSwitchingProtocols {
		h.reports.Heard(c.Endpoint, answered.Header)
	}
	return &answer{Answer: answered, choice: c, took: time.Since(began), counts: hs.counts}, nil
}

// outcomeOf is what an attempt says of how much work the upstream has.
func outcomeOf(a *answer, refused *refusal) limit.Outcome {
	switch {
	case a != nil && a.StatusCode == http.StatusServiceUnavailable:
		return limit.Overloaded
	case a != nil && a.StatusCode >= http.StatusInternalServerError:
		return limit.Failed
	case a != nil: // that somebody must log in is as much work as any other answer
		return limit.Answered
	case refused == nil: // somebody's code has panicked
		return limit.Unknown
	}
	switch refused.cause {
	case causeDialFailed, causeTLSFailed, causeDialTimeout, causeClosed:
		return limit.Overloaded
	case causeBadAnswer:
		return limit.Failed
	}
	return limit.Unknown
}

// endOf is how an attempt has ended, for its span.
func endOf(a *answer, refused *refusal) (status int, cause string) {
	switch {
	case refused != nil:
		return 0, string(refused.cause)
	case a == nil: // somebody's code has panicked
		return 0, string(causeInternal)
	case a.StatusCode != http.StatusSwitchingProtocols:
		return a.StatusCode, string(causeUpstreamRefused)
	}
	return a.StatusCode, ""
}

func (h *Handler) logRetry(c picked, why *refusal) {
	if l := h.logger.Check(zapcore.DebugLevel, "trying another upstream"); l != nil {
		l.Write(zap.String("upstream", c.Host.Address), failure(why.err))
	}
}

// noteFailure has passive checks see that no connection could be made. Whatever
// comes after that, a client may have had its part in: a path that the upstream
// closes the connection for or takes long to answer, subprotocols that it repeats
// wrongly, a frame that it resets the tunnel for. None of that counts, or one client
// could take the upstream from all others.
func (h *Handler) noteFailure(c picked, err error) {
	if h.transport.mayBeTheClients(err) {
		return
	}
	if process.table.Failed(c.Endpoint.Failures) {
		if l := h.logger.Check(zapcore.WarnLevel, "upstream fails; it gets tunnels only if no other one can"); l != nil {
			l.Write(zap.String("upstream", c.Host.Address), failure(err))
		}
	}
}
