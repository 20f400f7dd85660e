package admin

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/printable"
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
	// Upstream is the address of the upstream, as in the list of upstreams.
	Upstream string `json:"upstream"`
	// Handler is the name that the configuration gives the handler.
	Handler string `json:"handler,omitempty"`
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

	clients netip.Prefix
}

// isEmpty reports whether the filter means all tunnels.
func (f *Filter) isEmpty() bool {
	return f.Upstream == "" && f.Client == "" && f.Handler == ""
}

// Parse reads which clients are meant. The text of an error begins with the name of
// the field.
func (f *Filter) Parse() error {
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

// plainAddr is addr without what no range has: a zone, and an IPv6 form of an
// IPv4 address.
func plainAddr(addr netip.Addr) netip.Addr {
	return addr.Unmap().WithZone("")
}

// Matches reports whether a tunnel is meant, by what is known of it.
func (f *Filter) Matches(upstream, handler, clientIP string) bool {
	if f.Upstream != "" && upstream != f.Upstream || f.Handler != "" && handler != f.Handler {
		return false
	}
	if f.Client == "" {
		return true
	}
	addr, err := netip.ParseAddr(clientIP)
	return err == nil && f.clients.Contains(plainAddr(addr))
}

func (a *server) listTunnels(w http.ResponseWriter, r *http.Request) error {
	query, err := readQuery(r, "upstream", "client", "handler", "limit", "after")
	if err != nil {
		return err
	}
	filter := Filter{
		Upstream: query.Get("upstream"), Client: query.Get("client"), Handler: query.Get("handler"),
	}
	if err := filter.Parse(); err != nil {
		return err
	}
	limit := defaultPage
	if s := query.Get("limit"); s != "" {
		if limit, err = strconv.Atoi(s); err != nil || limit < 1 {
			return refuse(http.StatusBadRequest, "limit is a number of tunnels, not %q", s)
		}
	}
	all := a.Tunnels(&filter)
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
	if _, err := fmt.Fprintf(w, `{"total":%d,"next":%q,"tunnels":[`, total, next); err != nil {
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
