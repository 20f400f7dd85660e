package dashboard

import (
	"mime"
	"net"
	"net/http"
	"net/netip"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
)

// actionHeader is what requests that change something have to have. Neither a form nor a
// script of another origin can send it without being asked first (Fetch, CORS-preflight).
const actionHeader = "X-Websocket-Dashboard"

// setHeaders sets what keeps others out of the page, and the page out of others.
func setHeaders(header http.Header) {
	header.Set("Content-Security-Policy", "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "+
		"img-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'")
	header.Set("X-Content-Type-Options", "nosniff")
	header.Set("Cross-Origin-Resource-Policy", "same-origin")
	header.Set("Cache-Control", "no-store")
	header.Set("Referrer-Policy", "no-referrer")
}

// checkHost refuses hosts by which nobody should ask for the page. A page of somebody
// else has the origin of its name, and that may be made to mean this server; then all it
// does is of the same origin, and only the name tells.
func (h *Handler) checkHost(r *http.Request) error {
	name := hostOf(r.Host)
	if h.hosts[name] || name == "localhost" || strings.HasSuffix(name, ".localhost") || isAddress(name) || h.front().named {
		return nil
	}
	return refuse(http.StatusForbidden,
		"the host %q is not one of the dashboard's; if it should be, add it to hosts of websocket_dashboard", printable.Text(name))
}

// hostOf is the name of a host without its port.
func hostOf(host string) string {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.ToLower(strings.TrimSuffix(strings.TrimPrefix(strings.TrimSuffix(host, "]"), "["), "."))
}

func isAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// checkAction refuses requests for a change that this page has not made.
func (h *Handler) checkAction(r *http.Request) error {
	if !h.Actions {
		return refuse(http.StatusForbidden, "this dashboard changes nothing; that needs websocket_dashboard actions")
	}
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	switch {
	case err != nil || kind != "application/json":
		return refuse(http.StatusUnsupportedMediaType, "the content type has to be application/json")
	case r.Header.Get(actionHeader) == "":
		return refuse(http.StatusForbidden, "the header field %s is missing", actionHeader)
	case r.Header.Get("Origin") == "" && r.Header.Get("Sec-Fetch-Site") == "":
		return refuse(http.StatusForbidden, "neither Origin nor Sec-Fetch-Site tells where the request comes from")
	}
	if err := new(http.CrossOriginProtection).Check(r); err != nil {
		return refuse(http.StatusForbidden, "%w", err)
	}
	return nil
}

// actor is who asks, as far as that is known: the user that has been authenticated, or
// where the request comes from.
func actor(r *http.Request) string {
	name := ""
	if repl, ok := r.Context().Value(caddy.ReplacerCtxKey).(*caddy.Replacer); ok {
		name, _ = repl.GetString("http.auth.user.id")
	}
	if name == "" {
		name, _ = caddyhttp.GetVar(r.Context(), caddyhttp.ClientIPVarKey).(string)
	}
	return printable.Cut(name, admin.LongestName)
}
