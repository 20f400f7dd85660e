package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

// ServeHTTP performs a WebSocket handshake with client and upstream and starts
// the tunnel between them. Other requests go to next.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if !isOurs(r) {
		return h.passOn(w, r, next)
	}
	live := h.pool.live
	live.begin() // before looking, so that an exit waits for it or is seen
	defer live.finish()
	if live.isExiting() {
		return h.refuse(w, r, refuseExiting(""))
	}
	hs, refused := h.checkHandshake(r)
	if refused != nil {
		return h.refuse(w, r, refused)
	}
	if hs.place, refused = h.enter(r); refused != nil {
		return h.refuse(w, r, refused)
	}
	defer func() { hs.place.leave() }() // unless a tunnel has taken it
	a, refused := h.connect(r, hs)
	if refused != nil {
		return h.refuse(w, r, refused)
	}
	defer a.giveBack() // unless a tunnel has taken it
	if a.StatusCode != http.StatusSwitchingProtocols {
		return h.passAnswer(w, r, hs, a)
	}
	logFields(r, hs, a)
	if hs.stream {
		return h.openStream(w, r, hs, a)
	}
	return h.openSocket(w, r, hs, a)
}

// passOn gives a request that is not ours to the next handler.
func (h *Handler) passOn(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method == http.MethodConnect {
		return h.refuse(w, r, &refusal{
			cause:  causeConnect,
			status: http.StatusMethodNotAllowed,
			err:    errors.New("CONNECT is only served for WebSocket"),
			header: http.Header{"Allow": {http.MethodGet}},
		})
	}
	removeIgnoredUpgrade(r)
	if !h.access.requireUpgrade {
		return next.ServeHTTP(w, r)
	}
	refused := &refusal{
		cause:  causeNotWebSocket,
		status: http.StatusUpgradeRequired,
		err:    errors.New("not a WebSocket handshake"),
	}
	if r.ProtoMajor == 1 {
		refused.header = http.Header{"Upgrade": {"websocket"}, "Connection": {"Upgrade"}}
	}
	return h.refuse(w, r, refused)
}

// connect chooses an upstream and performs the handshake there, on another one
// if that fails early. The caller has to give the answer back.
func (h *Handler) connect(r *http.Request, hs *handshake) (*answer, *refusal) {
	ctx, cancel := h.pool.live.untilExit(r.Context())
	defer cancel()
	if h.handshake > 0 {
		ctx, cancel = context.WithTimeout(ctx, h.handshake)
		defer cancel()
	}
	operators.await(ctx)
	repl, _ := ctx.Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
	repl.Set("http.websocket_proxy.tunnel.id", hs.tunnelID)
	candidates, err := h.pool.candidates(repl)
	if err != nil {
		return nil, &refusal{cause: causeBadAddress, status: http.StatusBadGateway, err: err}
	}
	defer candidates.close()
	last := candidates.discover(ctx, r)
	if last.cause != causeNoUpstream {
		return nil, last
	}
	setProxyProtocol(r)
	out := h.outbound(r, hs)
	asked := h.askedOf(r, out)
	started := time.Now()
	for retries := 0; ; {
		chosen, refused := candidates.next(ctx, asked)
		if refused != nil {
			return nil, refused
		}
		if chosen == nil {
			if gaveUp := h.retry.wait(ctx, started, last); gaveUp != nil {
				return nil, gaveUp
			}
			candidates.nextRound()
			continue
		}
		a, refused := h.attempt(ctx, chosen, out, hs, repl)
		if refused == nil {
			return a, nil
		}
		if !h.retry.again(refused, retries, started) {
			return nil, refused
		}
		retries++
		last = refused
		h.logRetry(refused)
	}
}

// attempt performs the handshake with one upstream, and gives its place back if
// that comes to nothing.
func (h *Handler) attempt(
	ctx context.Context, c *choice, out *http.Request, hs *handshake, repl *caddy.Replacer,
) (a *answer, refused *refusal) {
	began := time.Now()
	defer func() {
		if a == nil { // also if somebody's code has panicked
			hosts.tunnelEnded(c.host)
		}
	}()
	a, refused = h.handshakeAt(ctx, c, h.prepareFor(c, out, hs, repl), hs, repl)
	if refused != nil {
		h.noteFailure(c, refused, time.Since(began))
	}
	return a, refused
}

func (h *Handler) handshakeAt(
	ctx context.Context, c *choice, out *http.Request, hs *handshake, repl *caddy.Replacer,
) (*answer, *refusal) {
	conn, err := h.dialer.dial(ctx, c.endpoint, repl)
	if err != nil {
		refused := refuseUpstream(ctx, err, "dialing", causeDialTimeout, causeDialFailed)
		refused.retry = refused.cause == causeDialTimeout || refused.cause == causeDialFailed
		refused.upstream = c.host.address
		return nil, refused
	}
	a, refused := h.dialer.exchange(ctx, conn, out, hs)
	if refused != nil {
		refused.upstream = c.host.address
		return nil, refused
	}
	a.choice = c
	return a, nil
}

// again reports whether a handshake that has failed is tried once more.
func (r *retry) again(refused *refusal, retries int, started time.Time) bool {
	return refused.retry &&
		(r.limit < 0 || retries < r.limit) &&
		(r.duration <= 0 || time.Since(started) < r.duration)
}

// wait waits for the next round with all upstreams. It returns why there is
// none: last, or that the client or the time for the handshake is gone.
func (r *retry) wait(ctx context.Context, started time.Time, last *refusal) *refusal {
	if time.Since(started)+r.interval >= r.duration {
		return last
	}
	select {
	case <-time.After(r.interval):
		return nil
	case <-ctx.Done():
		refused := refuseUpstream(ctx, last.err, "waiting for an upstream", causeHandshakeTimeout, causeNoUpstream)
		if refused.cause == causeHandshakeTimeout && last.cause == causeNoUpstream {
			return last
		}
		return refused
	}
}

func (h *Handler) logRetry(refused *refusal) {
	if c := h.logger.Check(zapcore.DebugLevel, "trying another upstream"); c != nil {
		c.Write(zap.String("upstream", refused.upstream), zap.Error(refused.err))
	}
}

// logFields adds to the access log line what leads to the tunnel's own line.
func logFields(r *http.Request, hs *handshake, a *answer) {
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Add(zap.String("tunnel", hs.tunnelID))
		extra.Add(zap.String("upstream", a.choice.host.address))
	}
}

// openSocket answers an HTTP/1.1 handshake, takes the client's connection over
// and starts the tunnel, which lives on when the handler has returned: it needs
// neither the handler's goroutine nor anything of the request, and keeps
// nothing of the configuration.
func (h *Handler) openSocket(w http.ResponseWriter, r *http.Request, hs *handshake, a *answer) error {
	abandon := func(err error) error {
		return h.refuse(w, r, &refusal{
			cause:    causeInternal,
			status:   http.StatusInternalServerError,
			err:      err,
			upstream: a.choice.host.address,
		})
	}
	hijacker, err := innermost(w)
	if err != nil {
		return abandon(err)
	}
	h.writeHeader(w, r, a, func(header http.Header) {
		header["Upgrade"] = []string{"websocket"}
		header["Connection"] = []string{"Upgrade"}
		header[fieldAccept] = []string{acceptFor(hs.key)}
	}, http.StatusSwitchingProtocols)
	conn, buffered, err := hijacker.Hijack()
	if err != nil {
		return abandon(fmt.Errorf("taking over the client's connection: %w", err))
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	side := socket{conn}
	side.giveUpAfter(h.userTimeout())
	h.startTunnel(r, hs, a, relay.Side{Conn: side, Glued: slices.Clone(early)})
	return nil
}

// openStream accepts an extended CONNECT and runs the tunnel to its end, as the
// stream ends with the handler.
func (h *Handler) openStream(w http.ResponseWriter, r *http.Request, hs *handshake, a *answer) error {
	h.writeHeader(w, r, a, func(header http.Header) {
		delete(header, fieldAccept)
	}, http.StatusOK)
	s, restore := newStream(r.Context(), w, r.Body)
	defer restore()
	defer s.detach()
	// The client waits for the 200 before it sends anything.
	if err := s.ctrl.Flush(); err != nil {
		h.logRefusal(r, &refusal{cause: causeClientGone, err: err, upstream: a.choice.host.address}, statusClientClosed)
		return nil
	}
	t := h.startTunnel(r, hs, a, relay.Side{Conn: s})
	<-t.done
	return nil
}

func (h *Handler) startTunnel(r *http.Request, hs *handshake, a *answer, client relay.Side) *tunnel {
	t := newTunnel(hs.tunnelID, h.tunnelPolicy, h.pool.live, a.choice.host, clientIP(r))
	t.failures = a.choice.endpoint.failures
	t.place, hs.place = hs.place, nil
	a.taken = true
	t.from, t.handler = a.choice.endpoint.from, h.Name
	hosts.joined(t.from)
	side := socket{a.conn}
	side.giveUpAfter(h.userTimeout())
	t.start(client, relay.Side{Conn: side, Glued: a.detach()}, rand.Float64)
	return t
}

// userTimeout is when TCP gives up a peer: after the sweep would have ended the
// tunnel with the reason, which takes it some rounds to see. It can only see
// that a peer is stuck while something waits to be written; TCP knows what is on
// its way to somebody who has gone.
func (h *Handler) userTimeout() time.Duration {
	if h.tunnelPolicy.write <= 0 {
		return 0
	}
	return h.tunnelPolicy.write + 5*sweepInterval
}
