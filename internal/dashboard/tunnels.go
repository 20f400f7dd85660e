package dashboard

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
)

// mostTunnels is how many tunnels the page shows.
const mostTunnels = 100

// TunnelList is the part of the open tunnels that was asked for.
type TunnelList struct {
	// Total are all that are open, and Matching those that match.
	Total    int `json:"total"`
	Matching int `json:"matching"`
	// Tunnels are the first ones of these.
	Tunnels []admin.Tunnel `json:"tunnels"`
}

// orders are how tunnels can be sorted: what comes first is less.
var orders = map[string]func(a, b *admin.Tunnel) int{
	"age":      func(a, b *admin.Tunnel) int { return cmp.Compare(b.Age, a.Age) },
	"idle":     func(a, b *admin.Tunnel) int { return cmp.Compare(b.Idle, a.Idle) },
	"bytes":    func(a, b *admin.Tunnel) int { return cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut) },
	"rate":     func(a, b *admin.Tunnel) int { return cmp.Compare(b.BytesRate, a.BytesRate) },
	"client":   func(a, b *admin.Tunnel) int { return cmp.Compare(a.ClientIP, b.ClientIP) },
	"upstream": func(a, b *admin.Tunnel) int { return cmp.Compare(a.Upstream, b.Upstream) },
	"id":       func(a, b *admin.Tunnel) int { return cmp.Compare(a.ID, b.ID) },
}

// list returns the tunnels that a query asks for: search, upstream, sort.
func (b *Board) list(query url.Values, now time.Time) (*TunnelList, error) {
	order := orders[cmp.Or(query.Get("sort"), "age")]
	if order == nil {
		return nil, refuse(http.StatusBadRequest, "tunnels are not sorted by %q", query.Get("sort"))
	}
	total, found := b.find(query.Get("search"), query.Get("upstream"), now)
	slices.SortFunc(found, func(a, b *foundTunnel) int { return cmp.Or(order(&a.Tunnel, &b.Tunnel), cmp.Compare(a.ID, b.ID)) })
	list := &TunnelList{Total: total, Matching: len(found), Tunnels: []admin.Tunnel{}}
	for _, t := range found[:min(len(found), mostTunnels)] {
		list.Tunnels = append(list.Tunnels, t.Tunnel)
	}
	return list, nil
}

// foundTunnel is a tunnel that a search has found.
type foundTunnel struct {
	admin.Tunnel

	live admin.LiveTunnel
}

// find returns the tunnels at an upstream, or at all if that is empty, in which a text
// occurs, and how many tunnels there are at all.
func (b *Board) find(text, upstream string, now time.Time) (total int, found []*foundTunnel) {
	text = strings.ToLower(strings.TrimSpace(text))
	all := b.backend.Tunnels(new(admin.Filter))
	for _, t := range all {
		row := t.Info(now)
		if upstream != "" && row.Upstream != upstream || !has(&row, text) {
			continue
		}
		found = append(found, &foundTunnel{row, t})
	}
	return len(all), found
}

// has reports whether a text, in small letters, occurs in what is shown of a tunnel, where
// a label is name=value.
func has(t *admin.Tunnel, text string) bool {
	for name, value := range t.Labels {
		if strings.Contains(strings.ToLower(name+"="+value), text) {
			return true
		}
	}
	for _, s := range []string{t.ID, t.ClientIP, t.Upstream, t.Handler} {
		if strings.Contains(strings.ToLower(s), text) {
			return true
		}
	}
	return false
}
