package admin

import (
	"fmt"
	"io"
	"math"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

// defaultPage is how many tunnels a list has if the request does not say.
const defaultPage = 1000

// Tunnel is what operators see of a tunnel. Directions are seen from the
// client.
type Tunnel struct {
	// ID is the tunnel's, as in the logs.
	ID string `json:"id"`
	// ClientIP is the client's address, which Caddy's trusted_proxies may have
	// taken from a header field.
	ClientIP string `json:"client_ip"`
	// Protocol is what the client speaks, as in the logs: h1, h2 or h3 for HTTP/1.1, 2 or 3.
	Protocol string `json:"protocol"`
	// Upstream is the address of the upstream, as in the list of upstreams.
	Upstream string `json:"upstream"`
	// Handler is the name that the configuration gives the handler.
	Handler string `json:"handler,omitempty"`
	// Labels are what the configuration says about the client, by their names: text of
	// the client's, printable, at most 128 bytes each.
	Labels map[string]string `json:"labels,omitempty"`
	// Opened is when the handshake was done.
	Opened time.Time `json:"opened"`
	// Age and Idle are in seconds: since it was opened, and since anything was
	// last seen to happen, to about a second.
	Age  float64 `json:"age"`
	Idle float64 `json:"idle"`
	// Bytes on the wire, and messages that have ended.
	BytesIn     uint64 `json:"bytes_in"`
	BytesOut    uint64 `json:"bytes_out"`
	MessagesIn  uint64 `json:"messages_in"`
	MessagesOut uint64 `json:"messages_out"`
	// BytesRate and MessagesRate are per second, in both directions together, over
	// about the last ten seconds.
	BytesRate    float64 `json:"bytes_rate"`
	MessagesRate float64 `json:"messages_rate"`
	// Expires is when the tunnel ends because what its client has come with expires,
	// but for the leeway. It is absent if there is no such time.
	Expires time.Time `json:"expires,omitzero"`
}

// Filter says which tunnels are meant: those that match all that is set. Parse
// comes before Matches.
type Filter struct {
	// Upstream is an address as in the list of upstreams.
	Upstream string `json:"upstream"`
	// Client is an IP address or a CIDR range.
	Client string `json:"client"`
	// Handler is the name of a handler.
	Handler string `json:"handler"`
	// Labels are values of labels by their names, as clients have them, not as they are
	// shown. Tunnels have to have them whole: what would be cut is refused.
	Labels map[string]string `json:"labels"`

	clients netip.Prefix
}

// FilterOf is the filter that parameters of a request are, those called label with a
// name and a value each, such as label=user=alice. It has been parsed.
func FilterOf(query url.Values) (*Filter, error) {
	f := &Filter{Upstream: query.Get("upstream"), Client: query.Get("client"), Handler: query.Get("handler")}
	for _, label := range query["label"] {
		name, value, ok := strings.Cut(label, "=")
		if !ok || name == "" || value == "" {
			return nil, refuse(http.StatusBadRequest, "label is a name and a value, such as user=alice, not %q", label)
		}
		if _, twice := f.Labels[name]; twice {
			return nil, refuse(http.StatusBadRequest, "label %s is given twice; a tunnel has one value of it", name)
		}
		if f.Labels == nil {
			f.Labels = make(map[string]string)
		}
		f.Labels[name] = value
	}
	return f, f.Parse()
}

// Parse reads which clients are meant, and checks that labels are. The text of an error
// begins with the name of the field.
func (f *Filter) Parse() error {
	for name, value := range f.Labels {
		if err := checkLabel(name, value); err != nil {
			return err
		}
	}
	if f.Client == "" {
		return nil
	}
	var err error
	if strings.Contains(f.Client, "/") {
		f.clients, err = netip.ParsePrefix(f.Client)
	} else {
		var addr netip.Addr
		addr, err = netip.ParseAddr(f.Client)
		f.clients = netip.PrefixFrom(plainAddr(addr), plainAddr(addr).BitLen())
	}
	if err != nil {
		return refuse(http.StatusBadRequest, "client is an IP address or a CIDR range, not %q", f.Client)
	}
	if addr := f.clients.Addr(); addr.Is4In6() && f.clients.Bits() >= 96 {
		f.clients = netip.PrefixFrom(addr.Unmap(), f.clients.Bits()-96)
	}
	return nil
}

// checkLabel refuses what would mean others than was said: tunnels without a label, or,
// as they have of a long value what it begins with, those of everybody who begins so.
func checkLabel(name, value string) error {
	if value == "" {
		return refuse(http.StatusBadRequest, "label %s has no value; tunnels without it are those that have no label", name)
	}
	if _, whole := tunnel.LabelOf(name, value); !whole {
		shown, _ := printable.Exact(value, math.MaxInt)
		return refuse(http.StatusBadRequest, "label %s has a value of %d bytes, as it is shown, of which tunnels keep at most %d, "+
			"so that others may have the same; say which tunnels by another label, the client or their ids, or label by a hash",
			name, len(shown), tunnel.MaxLabelValue)
	}
	return nil
}

// plainAddr is addr without what no range has: a zone, and an IPv6 form of an
// IPv4 address.
func plainAddr(addr netip.Addr) netip.Addr {
	return addr.Unmap().WithZone("")
}

// Matches reports whether a tunnel is meant, by what is known of it.
func (f *Filter) Matches(t *tunnel.About) bool {
	if f.Upstream != "" && t.Upstream != f.Upstream || f.Handler != "" && t.Handler != f.Handler {
		return false
	}
	for name, value := range f.Labels {
		if l, whole := tunnel.LabelOf(name, value); !whole || t.Labels.Get(name) != l.Value {
			return false
		}
	}
	if f.Client == "" {
		return true
	}
	addr, err := netip.ParseAddr(t.ClientIP)
	return err == nil && f.clients.Contains(plainAddr(addr))
}

func (a *server) listTunnels(w http.ResponseWriter, r *http.Request) error {
	query, err := readQuery(r, "upstream", "client", "handler", "label", "group", "sort", "limit", "after")
	if err != nil {
		return err
	}
	filter, err := FilterOf(query)
	if err != nil {
		return err
	}
	if query.Has("group") || query.Has("sort") {
		return a.listGroups(w, filter, query)
	}
	limit := defaultPage
	if s := query.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 {
			return refuse(http.StatusBadRequest, "limit is a number of tunnels, not %q", s)
		}
	}
	all := a.Tunnels(filter)
	page, next := pageOf(all, query.Get("after"), limit)
	streamTunnels(w, page, len(all), next)
	return nil
}

// pageOf returns those of all tunnels that come next after an id, and the id to
// go on from, if any.
func pageOf(all []LiveTunnel, after string, limit int) (page []LiveTunnel, next string) {
	for _, t := range all {
		if t.ID() > after {
			page = append(page, t)
		}
	}
	slices.SortFunc(page, func(a, b LiveTunnel) int { return strings.Compare(a.ID(), b.ID()) })
	if limit < len(page) {
		page = page[:limit]
		next = page[limit-1].ID()
	}
	return page, next
}

// streamTunnels writes a page of the list one by one, so that a long one is
// never in memory as a whole. It gives up when nobody is there to read.
func streamTunnels(w http.ResponseWriter, page []LiveTunnel, total int, next string) {
	w.Header().Set("Content-Type", "application/json")
	if _, err := fmt.Fprintf(w, `{"total":%d,"next":%q,"tunnels":[`, total, next); err != nil { //nolint:gosec // the id of a tunnel, in JSON
		return
	}
	now := time.Now()
	for i, t := range page {
		if i > 0 {
			if _, err := io.WriteString(w, ","); err != nil {
				return
			}
		}
		item, err := printable.JSON(t.Info(now))
		if err != nil {
			return
		}
		if _, err := w.Write(append(item, '\n')); err != nil {
			return
		}
	}
	_, _ = io.WriteString(w, "]}\n") // as in writeJSON
}

func (a *server) showTunnel(w http.ResponseWriter, r *http.Request) error {
	if _, err := readQuery(r); err != nil {
		return err
	}
	t, err := a.pathTunnel(r)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusOK, t.Info(time.Now()))
}

// pathTunnel returns the tunnel that a request's path names.
func (a *server) pathTunnel(r *http.Request) (LiveTunnel, error) {
	id := r.PathValue("id")
	if t, ok := a.Tunnel(id); ok {
		return t, nil
	}
	return nil, refuse(http.StatusNotFound, "there is no tunnel %q; it may have ended", id)
}
