package websocketproxy

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"

	"go.uber.org/zap/zapcore"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/evict"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/logline"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/server"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// openSocket answers an HTTP/1.1 handshake, takes the client's connection over
// and starts the tunnel, which lives on when the handler has returned: it needs
// neither the handler's goroutine nor anything of the request, and keeps
// nothing of the configuration.
func (h *Handler) openSocket(w http.ResponseWriter, r *http.Request, hs *clientHandshake, a *answer) error {
	abandon := func(err error) error {
		return h.refuse(w, r, &hs.account, &refusal{
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
		own := []string{"websocket", "Upgrade", handshake.AcceptFor(hs.Key)}
		header["Upgrade"], header["Connection"], header[handshake.FieldAccept] = own[:1:1], own[1:2:2], own[2:]
	}, http.StatusSwitchingProtocols)
	taken, buffered, err := writer.Hijack()
	if err != nil {
		return abandon(fmt.Errorf("taking over the client's connection: %w", err))
	}
	early, _ := buffered.Reader.Peek(buffered.Reader.Buffered())
	side := relay.Side{Conn: conn.Socket{Conn: conn.Unwrap(taken)}, Buffered: slices.Clone(early)}
	h.startTunnel(r, hs, a, side, relay.Start)
	return nil
}

// openStream accepts an extended CONNECT and starts the tunnel. A stream of HTTP/3 is
// taken from its server, one of HTTP/2 ends with the handler: serve, if it is not nil, has
// to be called there, and returns at the tunnel's end.
func (h *Handler) openStream(w http.ResponseWriter, r *http.Request, hs *clientHandshake, a *answer) (serve func()) {
	h.writeHeader(w, r, a, func(header http.Header) {
		delete(header, handshake.FieldAccept)
	}, http.StatusOK)
	s := conn.NewStream(r.Context(), w, r.Body, server.Conn(r.Context()))
	restore := server.LiftIdleTimeouts(r.Context())
	if err := s.Accept(); err != nil {
		s.Detach()
		restore()
		gone := &refusal{cause: causeClientGone, err: err, upstream: a.choice.Host.Address}
		h.logRefusal(r, &hs.account, gone, statusClientClosed)
		return nil
	}
	if taken := conn.TakeStream(w); taken != nil {
		server.KeepDeadlines(r.Context())
		t := h.startTunnel(r, hs, a, relay.Side{Conn: taken}, relay.Start)
		taken.OnGone(t.ClientGone) //nolint:contextcheck // the stream has its own, and the request ends
		return nil
	}
	var serveClient func()
	t := h.startTunnel(r, hs, a, relay.Side{Conn: s}, func(client, upstream relay.Side, hooks relay.Hooks) (r relay.Relay) {
		r, serveClient = relay.StartServed(client, upstream, hooks)
		return r
	})
	stop := s.OnGone(t.ClientGone)
	return func() {
		serveClient()
		<-t.Over()
		stop()
		s.Detach()
		restore()
	}
}

// starter is one of those of a relay.
type starter func(client, upstream relay.Side, hooks relay.Hooks) relay.Relay

func (h *Handler) startTunnel(
	r *http.Request, hs *clientHandshake, a *answer, client relay.Side, start starter,
) *tunnel.Tunnel {
	held := &evict.Lease{
		Host: a.choice.Host, Room: a.choice.Room, From: a.choice.Endpoint.From,
		Place: hs.place, Visit: a.choice.visit, Policy: h.evictPolicy,
		Failures: a.choice.Endpoint.Failures,
	}
	about := tunnel.About{
		ID: hs.tunnelID, ClientIP: clientIP(r), Upstream: held.Host.Address, Handler: h.Name,
		Labels: h.labelsOf(r), Asked: hs.target(r).Keep(), Course: hs.course(r),
	}
	about.Course.Trace = hs.trace.Opened(a.StatusCode, hs.tunnelID)
	if l := h.logger.Check(zapcore.DebugLevel, "tunnel opened"); l != nil {
		l.Write(logline.Opened(&about)...)
	}
	hs.place, a.taken = nil, true // labels are up to other modules, which may panic
	t := tunnel.New(about, h.tunnelPolicy, h.live, held)
	t.Meter = hs.counts.Opened(a.choice.Endpoint.Spelling(), hs.settle())
	if hs.expires != nil {
		t.Limit(*hs.expires)
	}
	other := a.Detach()
	t.Start(func(hooks relay.Hooks) relay.Relay { return start(client, other, hooks) }, rand.Float64)
	return t
}
