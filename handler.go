package websocketproxy

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// ServeHTTP performs a WebSocket handshake with client and upstream and starts
// the tunnel between them. Other requests go to next.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.ProtoMajor == 3 {
		h.noteServer(r.Context())
	}
	// A request for a WebSocket never goes to the next handler: what stands there
	// would open a tunnel without the checks.
	if !handshake.IsWebSocket(r) {
		return h.serveNext(w, r, next)
	}
	live := h.live
	live.Begin() // before looking, so that an exit waits for it or is seen
	defer live.Finish()
	if live.IsExiting() {
		return h.refuse(w, r, refuseExiting(""))
	}
	hs, refused := h.checkHandshake(r)
	if refused != nil {
		return h.refuse(w, r, refused)
	}
	hs.client = w
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
	if hs.Stream {
		return h.openStream(w, r, hs, a)
	}
	return h.openSocket(w, r, hs, a)
}

// serveNext gives a request that is not ours to the next handler.
func (h *Handler) serveNext(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method == http.MethodConnect {
		return h.refuse(w, r, refuseConnect(r))
	}
	handshake.RemoveIgnoredUpgrade(r)
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

// logFields adds to the access log line what leads to the tunnel's own line.
func logFields(r *http.Request, hs *clientHandshake, a *answer) {
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Add(zap.String("tunnel", hs.tunnelID))
		extra.Add(zap.String("upstream", a.choice.Host.Address))
	}
}

// openSocket answers an HTTP/1.1 handshake, takes the client's connection over
// and starts the tunnel, which lives on when the handler has returned: it needs
// neither the handler's goroutine nor anything of the request, and keeps
// nothing of the configuration.
func (h *Handler) openSocket(w http.ResponseWriter, r *http.Request, hs *clientHandshake, a *answer) error {
	abandon := func(err error) error {
		return h.refuse(w, r, &refusal{
			cause:    causeInternal,
			status:   http.StatusInternalServerError,
			err:      err,
			upstream: a.choice.Host.Address,
		})
	}
	writer, err := conn.Hijacker(w)
	if err != nil {
		return abandon(err)
	}
	h.writeHeader(w, r, a, func(header http.Header) {
		header["Upgrade"] = []string{"websocket"}
		header["Connection"] = []string{"Upgrade"}
		header[handshake.FieldAccept] = []string{handshake.AcceptFor(hs.Key)}
	}, http.StatusSwitchingProtocols)
	taken, buffered, err := writer.Hijack()
	if err != nil {
		return abandon(fmt.Errorf("taking over the client's connection: %w", err))
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	side := conn.Socket{Conn: conn.Unwrap(taken)}
	side.GiveUpAfter(h.userTimeout())
	h.startTunnel(r, hs, a, relay.Side{Conn: side, Glued: slices.Clone(early)})
	return nil
}

// openStream accepts an extended CONNECT and runs the tunnel to its end, as the
// stream ends with the handler.
func (h *Handler) openStream(w http.ResponseWriter, r *http.Request, hs *clientHandshake, a *answer) error {
	h.writeHeader(w, r, a, func(header http.Header) {
		delete(header, handshake.FieldAccept)
	}, http.StatusOK)
	s := conn.NewStream(r.Context(), w, r.Body, keptConn(r.Context()))
	defer liftIdleTimeouts(r.Context())()
	defer s.Detach()
	if err := s.Accept(); err != nil {
		h.logRefusal(r, &refusal{cause: causeClientGone, err: err, upstream: a.choice.Host.Address}, statusClientClosed)
		return nil
	}
	t := h.startTunnel(r, hs, a, relay.Side{Conn: s})
	stop := s.OnGone(t.ClientGone)
	defer stop()
	<-t.Over()
	return nil
}

func (h *Handler) startTunnel(r *http.Request, hs *clientHandshake, a *answer, client relay.Side) *tunnel.Tunnel {
	held := &lease{host: a.choice.Host, from: a.choice.Endpoint.From, place: hs.place, policy: h.leasePolicy}
	hs.place, a.taken = nil, true
	t := tunnel.New(tunnel.About{ID: hs.tunnelID, ClientIP: clientIP(r), Upstream: held.host.Address, Handler: h.Name}, h.tunnelPolicy, h.live, held)
	other := a.Detach(h.userTimeout())
	t.Start(func(hooks relay.Hooks) relay.Relay { return relay.Start(client, other, hooks) }, rand.Float64)
	return t
}

// userTimeout is when TCP gives up a peer: after the sweep would have ended the
// tunnel with the reason, which takes it some rounds to see. It can only see
// that a peer is stuck while something waits to be written; TCP knows what is on
// its way to somebody who has gone.
func (h *Handler) userTimeout() time.Duration {
	if h.tunnelPolicy.Write <= 0 {
		return 0
	}
	return h.tunnelPolicy.Write + 5*tunnel.SweepInterval
}
