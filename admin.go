package websocketproxy

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/frame"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/relay"
)

func init() {
	caddy.RegisterModule(new(adminAPI))
}

const (
	// defaultPage is how many tunnels a list has if the request does not say.
	defaultPage = 1000
	// closeEach is the time for one tunnel when many are closed by one call and
	// no time is given.
	closeEach = time.Millisecond
	// maxAdminBody bounds what is read of a request, in bytes.
	maxAdminBody = 1 << 16
)

// adminAPI is the part of Caddy's admin endpoint where operators see and close
// tunnels, and empty upstreams:
//
//   - `GET /websocket_proxy/upstreams` lists upstreams
//   - `POST /websocket_proxy/upstreams/state` sets one to `ready`, `drain` or
//     `evict`
//   - `GET /websocket_proxy/tunnels` lists tunnels, or those that match
//     `upstream`, `client` (an IP address or CIDR range) and `handler`; `limit`
//     and `after` page through them
//   - `GET /websocket_proxy/tunnels/{id}` shows one
//   - `DELETE /websocket_proxy/tunnels/{id}` closes one, with `code` and `reason`
//   - `POST /websocket_proxy/tunnels/close` closes those that match, paced
//
// It exists with every configuration and is about the whole process.
type adminAPI struct{}

// CaddyModule returns the Caddy module information.
func (*adminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.websocket_proxy",
		New: func() caddy.Module { return new(adminAPI) },
	}
}

// Routes returns the routes of the API. Everything that they use belongs to the
// process, as nobody tells this module when its configuration is unloaded.
func (*adminAPI) Routes() []caddy.AdminRoute {
	routes := []caddy.AdminRoute{}
	for pattern, handler := range map[string]caddy.AdminHandlerFunc{
		"GET /websocket_proxy/upstreams":        listUpstreams,
		"POST /websocket_proxy/upstreams/state": setUpstreamState,
		"GET /websocket_proxy/tunnels":          listTunnels,
		"GET /websocket_proxy/tunnels/{id}":     showTunnel,
		"DELETE /websocket_proxy/tunnels/{id}":  closeTunnel,
		"POST /websocket_proxy/tunnels/close":   closeTunnels,
	} {
		routes = append(routes, caddy.AdminRoute{Pattern: pattern, Handler: handler})
	}
	return routes
}

// adminError is an answer with a status and a cause.
func adminError(status int, format string, args ...any) error {
	err := fmt.Errorf(format, args...)
	return caddy.APIError{HTTPStatus: status, Err: err, Message: err.Error()}
}

func writeJSON(w http.ResponseWriter, status int, v any) error {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	return json.NewEncoder(w).Encode(v)
}

// readJSON reads a request's body, which has no other fields than v.
func readJSON(r *http.Request, v any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxAdminBody))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		return adminError(http.StatusBadRequest, "the body is not the JSON object that belongs here: %w", err)
	}
	return nil
}

// tunnelInfo is what operators see of a tunnel. Directions are seen from the
// client.
type tunnelInfo struct {
	ID          string    `json:"id"`
	ClientIP    string    `json:"client_ip"`
	Upstream    string    `json:"upstream"`
	Handler     string    `json:"handler,omitempty"`
	Opened      time.Time `json:"opened"`
	Age         float64   `json:"age"`  // in seconds
	Idle        float64   `json:"idle"` // in seconds, to about one
	BytesIn     uint64    `json:"bytes_in"`
	BytesOut    uint64    `json:"bytes_out"`
	MessagesIn  uint64    `json:"messages_in"`
	MessagesOut uint64    `json:"messages_out"`
}

func (t *tunnel) info(now time.Time) tunnelInfo {
	_, in := t.relay.Counts(relay.ClientToUpstream)
	_, out := t.relay.Counts(relay.UpstreamToClient)
	return tunnelInfo{
		ID:          t.id,
		ClientIP:    t.clientIP,
		Upstream:    t.upstreamHost.address,
		Handler:     t.handler,
		Opened:      t.opened,
		Age:         now.Sub(t.opened).Seconds(),
		Idle:        max(0, now.Sub(time.Unix(0, t.active.Load())).Seconds()),
		BytesIn:     in,
		BytesOut:    out,
		MessagesIn:  t.messages[relay.ClientToUpstream].Load(),
		MessagesOut: t.messages[relay.UpstreamToClient].Load(),
	}
}

// tunnelFilter says which tunnels are meant: those that match all that is set.
type tunnelFilter struct {
	Upstream string `json:"upstream"`
	Client   string `json:"client"`
	Handler  string `json:"handler"`

	clients netip.Prefix
}

// isEmpty reports whether the filter means all tunnels.
func (f *tunnelFilter) isEmpty() bool {
	return f.Upstream == "" && f.Client == "" && f.Handler == ""
}

// parse reads the clients that are meant.
func (f *tunnelFilter) parse() error {
	if f.Client == "" {
		return nil
	}
	var err error
	if strings.Contains(f.Client, "/") {
		f.clients, err = netip.ParsePrefix(f.Client)
		f.clients = f.clients.Masked()
	} else {
		var addr netip.Addr
		if addr, err = netip.ParseAddr(f.Client); err == nil {
			f.clients = netip.PrefixFrom(addr, addr.BitLen())
		}
	}
	if err != nil {
		return adminError(http.StatusBadRequest, "client is an IP address or a CIDR range, not %q", f.Client)
	}
	return nil
}

func (f *tunnelFilter) matches(t *tunnel) bool {
	if f.Upstream != "" && t.upstreamHost.address != f.Upstream || f.Handler != "" && t.handler != f.Handler {
		return false
	}
	if f.Client == "" {
		return true
	}
	addr, err := netip.ParseAddr(t.clientIP)
	return err == nil && f.clients.Contains(addr.Unmap())
}

func listTunnels(w http.ResponseWriter, r *http.Request) error {
	query := r.URL.Query()
	filter := tunnelFilter{
		Upstream: query.Get("upstream"), Client: query.Get("client"), Handler: query.Get("handler"),
	}
	if err := filter.parse(); err != nil {
		return err
	}
	limit := defaultPage
	if s := query.Get("limit"); s != "" {
		var err error
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 {
			return adminError(http.StatusBadRequest, "limit is a number of tunnels, not %q", s)
		}
	}
	all := liveTunnels.collect(filter.matches)
	slices.SortFunc(all, func(a, b *tunnel) int { return strings.Compare(a.id, b.id) })
	first, found := slices.BinarySearchFunc(all, query.Get("after"), func(t *tunnel, id string) int {
		return strings.Compare(t.id, id)
	})
	if found {
		first++
	}
	page := all[first:min(first+limit, len(all))]
	next := ""
	if first+limit < len(all) {
		next = page[len(page)-1].id
	}
	return streamTunnels(w, page, len(all), next)
}

// streamTunnels writes a page of the list one by one, so that a long one is
// never in memory as a whole.
func streamTunnels(w http.ResponseWriter, page []*tunnel, total int, next string) error {
	w.Header().Set("Content-Type", "application/json")
	if _, err := fmt.Fprintf(w, `{"total":%d,"next":%q,"tunnels":[`, total, next); err != nil {
		return ignoreGone(err)
	}
	now := time.Now()
	for i, t := range page {
		item, err := json.Marshal(t.info(now))
		if err != nil {
			return err
		}
		if i > 0 {
			item = append([]byte(",\n"), item...)
		}
		if _, err := w.Write(item); err != nil {
			return ignoreGone(err)
		}
	}
	_, err := io.WriteString(w, "]}\n")
	return ignoreGone(err)
}

// ignoreGone drops the error of writing to somebody who has left: the answer
// has begun, so no other can be given.
func ignoreGone(error) error { return nil }

func showTunnel(w http.ResponseWriter, r *http.Request) error {
	t, err := pathTunnel(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, t.info(time.Now()))
}

// pathTunnel returns the tunnel that a request's path names.
func pathTunnel(r *http.Request) (*tunnel, error) {
	id := r.PathValue("id")
	if t := liveTunnels.find(id); t != nil {
		return t, nil
	}
	return nil, adminError(http.StatusNotFound, "there is no tunnel %q; it may have ended", id)
}

// farewellFor checks the status and the text for Close frames. Zero means 1001.
func farewellFor(code int, text string) (uint16, error) {
	if code == 0 {
		code = frame.StatusGoingAway
	}
	if problem := closeCodeProblem(code); problem != "" {
		return 0, adminError(http.StatusBadRequest, "code: %s", problem)
	}
	if problem := closeReasonProblem(text); problem != "" {
		return 0, adminError(http.StatusBadRequest, "reason: %s", problem)
	}
	return uint16(code), nil
}

func closeTunnel(w http.ResponseWriter, r *http.Request) error {
	t, err := pathTunnel(r)
	if err != nil {
		return err
	}
	query, code := r.URL.Query(), 0
	if s := query.Get("code"); s != "" {
		if code, err = strconv.Atoi(s); err != nil {
			return adminError(http.StatusBadRequest, "code is a number, not %q", s)
		}
	}
	status, err := farewellFor(code, query.Get("reason"))
	if err != nil {
		return err
	}
	t.endSaying(killed, status, query.Get("reason"))
	return writeJSON(w, http.StatusAccepted, map[string]any{"closing": 1})
}

// closeRequest says which tunnels to close and how.
type closeRequest struct {
	tunnelFilter

	// All has to be set if no filter is.
	All    bool   `json:"all"`
	Code   int    `json:"code"`
	Reason string `json:"reason"`
	// Period is the time over which they are closed, in seconds. Without it,
	// each takes a millisecond.
	Period *float64 `json:"period"`
}

func closeTunnels(w http.ResponseWriter, r *http.Request) error {
	var req closeRequest
	if err := readJSON(r, &req); err != nil {
		return err
	}
	if err := req.parse(); err != nil {
		return err
	}
	if req.isEmpty() != req.All {
		return adminError(http.StatusBadRequest, "say which tunnels: upstream, client or handler, or all for every one")
	}
	code, err := farewellFor(req.Code, req.Reason)
	if err != nil {
		return err
	}
	tunnels := liveTunnels.collect(req.matches)
	period := time.Duration(len(tunnels)) * closeEach
	if req.Period != nil {
		if period, err = seconds("period", *req.Period); err != nil {
			return err
		}
	}
	liveTunnels.pace(paced{
		tunnels: tunnels,
		period:  period,
		end:     func(t *tunnel) { t.endSaying(killed, code, req.Reason) },
	})
	return writeJSON(w, http.StatusAccepted, map[string]any{"closing": len(tunnels), "period": period.Seconds()})
}

// longestPeriod bounds what an operator may ask for.
const longestPeriod = 24 * time.Hour

// seconds makes a duration of a number in a request.
func seconds(name string, n float64) (time.Duration, error) {
	return secondsFor(name, n, longestPeriod)
}

// secondsFor is seconds with another bound.
func secondsFor(name string, n float64, longest time.Duration) (time.Duration, error) {
	// Written so that NaN fails it.
	if !(n >= 0 && n <= longest.Seconds()) {
		return 0, adminError(http.StatusBadRequest, "%s is a number of seconds from 0 to %.0f, not %g",
			name, longest.Seconds(), n)
	}
	return time.Duration(n * float64(time.Second)), nil
}

// Interface guards
var (
	_ caddy.Module      = (*adminAPI)(nil)
	_ caddy.AdminRouter = (*adminAPI)(nil)
)
