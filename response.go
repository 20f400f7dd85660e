package websocketproxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/conn"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// writeHeader sends the header of an upstream's answer to the client: without
// what concerns the upstream's connection only, with the operator's header
// operations, what the selection policy wants to set, and last what finish
// sets.
func (h *Handler) writeHeader(w http.ResponseWriter, r *http.Request, a *answer, finish func(http.Header), status int) {
	from, to := a.Header, w.Header()
	removeHopByHop(from)
	if h.Headers != nil && h.Headers.Response != nil {
		if ops := h.Headers.Response; ops.Require == nil || ops.Require.Match(a.StatusCode, from) {
			repl, _ := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer)
			ops.ApplyTo(from, repl)
		}
	}
	delete(to, "Server") // Caddy's own; Via says who passed the answer on
	via := fmt.Sprintf("%d.%d Caddy", a.ProtoMajor, a.ProtoMinor)
	for _, fields := range []http.Header{from, a.choice.header, {"Via": {via}}} {
		for name, values := range fields {
			name = handshake.Spell(name)
			to[name] = append(to[name], values...)
		}
	}
	if status == http.StatusSwitchingProtocols || a.StatusCode == http.StatusSwitchingProtocols {
		delete(to, "Content-Length") // RFC 9110 section 8.6: not in a 101
	}
	finish(to)
	w.WriteHeader(status)
}

// inform passes an informational response of the upstream's on (RFC 9110 section
// 15.2), with its own fields only: the server would send with it all that is set for
// the final response, by whatever handlers. For the same reason it goes past them. A
// client that does not read does not hold the handshake up beyond its time.
func (hs *clientHandshake) inform(ctx context.Context, resp *http.Response) {
	w := conn.Innermost(hs.client)
	if end, ok := ctx.Deadline(); ok {
		ctrl := http.NewResponseController(w)
		_ = ctrl.SetWriteDeadline(end) // where that is not known, there is none
		defer func() { _ = ctrl.SetWriteDeadline(time.Time{}) }()
	}
	header := w.Header()
	final := maps.Clone(header)
	clear(header)
	removeHopByHop(resp.Header)
	delete(resp.Header, "Content-Length") // RFC 9110 section 8.6
	maps.Copy(header, resp.Header)
	w.WriteHeader(resp.StatusCode)
	clear(header)
	maps.Copy(header, final)
}

// passAnswer gives the client what the upstream answered instead of a 101. The
// client's connection stays ordinary HTTP.
func (h *Handler) passAnswer(w http.ResponseWriter, r *http.Request, hs *clientHandshake, a *answer) error {
	refused := refuseAnswered(a)
	if hs.Stream && a.StatusCode < 300 {
		// A 2xx is how a CONNECT is accepted.
		refused.status = http.StatusBadGateway
		return h.refuse(w, r, refused)
	}
	h.logRefusal(r, refused, a.StatusCode)
	upgrade := a.Header["Upgrade"]
	h.writeHeader(w, r, a, func(header http.Header) {
		if a.StatusCode == http.StatusUpgradeRequired && !hs.Stream && len(upgrade) > 0 {
			header["Upgrade"] = upgrade
			header["Connection"] = []string{"Upgrade"}
		}
	}, a.StatusCode)
	ctx, cancel := h.live.UntilExit(r.Context())
	defer cancel()
	if err := h.copyBody(ctx, w, a); err != nil {
		// The status is out; all that can still be said is that the body is
		// not whole.
		panic(http.ErrAbortHandler)
	}
	return nil
}

// copyBody streams the body of an answer to the client, within the times that
// a tunnel may take.
func (h *Handler) copyBody(ctx context.Context, w http.ResponseWriter, a *answer) error {
	stop := context.AfterFunc(ctx, func() { _ = a.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	ctrl := http.NewResponseController(w)
	buf := make([]byte, 8<<10)
	for {
		if err := a.SetReadDeadline(deadline(h.tunnelPolicy.Idle)); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := a.Body.Read(buf)
		if n > 0 {
			if werr := writeWithin(w, ctrl, buf[:n], h.tunnelPolicy.Write); werr != nil {
				return werr
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// writeWithin writes and flushes p within limit.
func writeWithin(w io.Writer, ctrl *http.ResponseController, p []byte, limit time.Duration) error {
	if limit > 0 {
		if err := ctrl.SetWriteDeadline(time.Now().Add(limit)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
	}
	if _, err := w.Write(p); err != nil {
		return err
	}
	if err := ctrl.Flush(); err != nil {
		return err
	}
	if limit > 0 {
		// Over HTTP/2 it ends the stream also when nothing is being written.
		_ = ctrl.SetWriteDeadline(time.Time{})
	}
	return nil
}

// deadline returns the time in limit from now; no limit is no deadline.
func deadline(limit time.Duration) time.Time {
	if limit <= 0 {
		return time.Time{}
	}
	return time.Now().Add(limit)
}
