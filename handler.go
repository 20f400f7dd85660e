package websocketproxy

import (
	"errors"
	"fmt"
	"net/http"

	"go.uber.org/zap"

	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/server"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/upstream"
)

// ServeHTTP performs a WebSocket handshake with client and upstream and starts
// the tunnel between them. Other requests go to next.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.ProtoMajor == 3 {
		h.http3.Note(r.Context(), h.live, h.tunnelPolicy.Shutdown)
	}
	// A request for a WebSocket never goes to the next handler: what stands there
	// would open a tunnel without the checks.
	if !handshake.IsWebSocket(r) {
		return h.serveNext(w, r, next)
	}
	h.live.Begin() // before looking, so that an exit waits for it or is seen
	defer h.live.Finish()
	open := h.open
	if r.ProtoMajor == 2 {
		open = h.openApart
	}
	serve, err := open(w, r)
	if serve != nil {
		serve()
	}
	return err
}

// openApart is open on a stack that does not stay as large for as long as the tunnel lasts.
func (h *Handler) openApart(w http.ResponseWriter, r *http.Request) (serve func(), err error) {
	server.OnOwnStack(func() { serve, err = h.open(w, r) })
	return serve, err
}

// open performs the handshakes and opens the tunnel. A tunnel that ends with the handler
// has to be served by it.
func (h *Handler) open(w http.ResponseWriter, r *http.Request) (serve func(), err error) {
	hs := &clientHandshake{account: h.openAccount(r), client: w}
	hs.begin()
	defer hs.abandon() // unless it has come to an end
	if h.live.IsExiting() {
		return nil, h.refuse(w, r, &hs.account, refuseExiting(""))
	}
	refused := h.checkHandshake(r, hs)
	if refused != nil {
		return nil, h.refuse(w, r, &hs.account, refused)
	}
	if hs.expires, refused = h.deadline(r); refused != nil {
		return nil, h.refuseByClose(w, r, hs, refused)
	}
	if hs.place, refused = h.enter(r); refused != nil {
		return nil, h.refuse(w, r, &hs.account, refused)
	}
	defer func() { hs.place.Leave() }() // unless a tunnel has taken it
	a, refused := h.connect(r, hs)
	if refused != nil {
		return nil, h.refuseByClose(w, r, hs, refused)
	}
	defer a.giveBack() // unless a tunnel has taken it
	if !a.opens() {
		return nil, h.passAnswer(w, r, hs, a)
	}
	logFields(r, hs, a)
	if hs.Stream {
		return h.openStream(w, r, hs, a), nil
	}
	return nil, h.openSocket(w, r, hs, a)
}

// serveNext gives a request that is not ours to the next handler.
func (h *Handler) serveNext(w http.ResponseWriter, r *http.Request, next caddyhttp.Handler) error {
	if r.Method == http.MethodConnect {
		account := h.openAccount(r)
		return h.refuse(w, r, &account, refuseConnect(r))
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
	account := h.openAccount(r)
	return h.refuse(w, r, &account, refused)
}

// logFields adds to the access log line, if there is one, what leads to the tunnel's own line.
func logFields(r *http.Request, hs *clientHandshake, a *answer) {
	if srv, ok := r.Context().Value(caddyhttp.ServerCtxKey).(*caddyhttp.Server); ok && srv.Logs == nil {
		return
	}
	if extra, ok := r.Context().Value(caddyhttp.ExtraLogFieldsCtxKey).(*caddyhttp.ExtraLogFields); ok {
		extra.Add(zap.String("tunnel", hs.tunnelID))
		extra.Add(zap.String("upstream", a.choice.Host.Address))
	}
}

// clientGroup is the same for all handlers that are one to clients, over reloads.
func (h *Handler) clientGroup() upstream.ClientGroup { return process.evictor.ClientGroup(h.loaded) }

// enter takes the client's place. It is nil without a refusal where places are
// not counted.
func (h *Handler) enter(r *http.Request) (*upstream.ClientPlace, *refusal) {
	if h.perClient <= 0 {
		return nil, nil
	}
	client, known := upstream.ClientOf(clientIP(r))
	if !known {
		return nil, nil
	}
	if p := process.clients.Enter(h.clientGroup(), client, h.perClient); p != nil {
		return p, nil
	}
	refused := unavailable(causeClientLimit, fmt.Errorf("the client has %d tunnels already; see max_tunnels_per_client",
		h.perClient))
	refused.status = http.StatusTooManyRequests
	return nil, refused
}
