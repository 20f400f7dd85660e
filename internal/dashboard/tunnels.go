package dashboard

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"sort"
	"strings"
	"time"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
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

// order is how tunnels are sorted: what comes first is less.
type order func(a, b *tunnel.Snapshot) int

// orders are those that can be asked for.
var orders = map[string]order{
	"age":      func(a, b *tunnel.Snapshot) int { return a.Opened.Compare(b.Opened) },
	"idle":     func(a, b *tunnel.Snapshot) int { return a.Active.Compare(b.Active) },
	"bytes":    func(a, b *tunnel.Snapshot) int { return cmp.Compare(b.BytesIn+b.BytesOut, a.BytesIn+a.BytesOut) },
	"rate":     func(a, b *tunnel.Snapshot) int { return cmp.Compare(b.BytesRate, a.BytesRate) },
	"client":   func(a, b *tunnel.Snapshot) int { return cmp.Compare(a.ClientIP, b.ClientIP) },
	"upstream": func(a, b *tunnel.Snapshot) int { return cmp.Compare(a.Upstream, b.Upstream) },
	"id":       func(*tunnel.Snapshot, *tunnel.Snapshot) int { return 0 },
}

// list returns the tunnels that a query asks for: search, upstream, sort. It is asked for
// every two seconds by everybody who looks, and there may be many tunnels, so only what is
// shown is made.
func (b *Board) list(query url.Values, now time.Time) (*TunnelList, error) {
	by := orders[cmp.Or(query.Get("sort"), "age")]
	if by == nil {
		return nil, refuse(http.StatusBadRequest, "tunnels are not sorted by %q", query.Get("sort"))
	}
	list := &TunnelList{Tunnels: make([]admin.Tunnel, 0, mostTunnels)}
	matches := searched(query.Get("search"), query.Get("upstream"))
	found := first{by: by}
	for s := range b.backend.Snapshots(func(t *tunnel.About) bool { list.Total++; return matches(t) }) {
		list.Matching++
		found.add(s)
	}
	for _, s := range found.sorted() {
		if t, open := b.backend.Tunnel(s.ID); open {
			list.Tunnels = append(list.Tunnels, t.Info(now))
		}
	}
	return list, nil
}

// first are the first tunnels of many, in some order. It implements [sort.Interface].
type first struct {
	by   order
	all  []tunnel.Snapshot // at most twice as many as are shown
	cut  bool              // whether as many as are shown are sorted, before the others
	next tunnel.Snapshot   // here, as what an order is given is moved to the heap
}

func (f *first) Len() int           { return len(f.all) }
func (f *first) Less(i, j int) bool { return f.less(&f.all[i], &f.all[j]) }
func (f *first) Swap(i, j int)      { f.all[i], f.all[j] = f.all[j], f.all[i] }

func (f *first) less(a, b *tunnel.Snapshot) bool {
	return cmp.Or(f.by(a, b), cmp.Compare(a.ID, b.ID)) < 0
}

func (f *first) add(s tunnel.Snapshot) {
	f.next = s
	if f.cut && !f.less(&f.next, &f.all[mostTunnels-1]) {
		return
	}
	f.all = append(f.all, s)
	if len(f.all) == 2*mostTunnels {
		f.all, f.cut = f.sorted(), true
	}
}

func (f *first) sorted() []tunnel.Snapshot {
	sort.Sort(f)
	return f.all[:min(len(f.all), mostTunnels)]
}

// find returns the tunnels that a list with the same search is about.
func (b *Board) find(text, upstream string) []admin.LiveTunnel {
	found := make(map[string]bool)
	for s := range b.backend.Snapshots(searched(text, upstream)) {
		found[s.ID] = true
	}
	return slices.DeleteFunc(b.backend.Tunnels(&admin.Filter{Upstream: upstream}), func(t admin.LiveTunnel) bool { return !found[t.ID()] })
}

// searched is what tunnels are looked for by: an upstream, or all if that is empty, and a
// text that occurs in what is shown of them, where a label is name=value. Capitals do not
// count.
func searched(text, upstream string) func(*tunnel.About) bool {
	text = strings.TrimSpace(text)
	has := func(s string) bool { return contains(s, text) }
	inLabel := func(l tunnel.Label) bool {
		return has(l.Name) || has(l.Value) || strings.Contains(text, "=") && has(l.Name+"="+l.Value)
	}
	return func(t *tunnel.About) bool {
		if upstream != "" && t.Upstream != upstream {
			return false
		}
		if text == "" || has(t.ID) || has(t.ClientIP) || has(t.Upstream) || has(t.Handler) {
			return true
		}
		for l := range t.Labels.All() {
			if inLabel(l) {
				return true
			}
		}
		return false
	}
}

// contains reports whether a text occurs, in capitals or not, and makes no other text to
// find that out.
func contains(s, text string) bool {
	for ; len(s) >= len(text) && s != ""; s = s[1:] {
		if strings.EqualFold(s[:len(text)], text) {
			return true
		}
	}
	return false
}
