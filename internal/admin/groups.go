package admin

import (
	"cmp"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// defaultGroups is how many groups a list has if the request does not say.
const defaultGroups = 20

// Group is what tunnels add up to that have something in common.
type Group struct {
	// Key is what they have in common: the value of a label, which is empty for those
	// without, the address of a client, or that of an upstream.
	Key string `json:"key"`
	// Tunnels is how many there are.
	Tunnels int `json:"tunnels"`
	// BytesRate and MessagesRate are per second, in both directions together, over
	// about the last ten seconds.
	BytesRate    float64 `json:"bytes_rate"`
	MessagesRate float64 `json:"messages_rate"`
}

// GroupList is the answer to a list of tunnels by group.
type GroupList struct {
	// Total is how many groups there are, of which those that come first are listed.
	Total  int     `json:"total"`
	Groups []Group `json:"groups"`
}

// groupings are what a group may be by, beside labels.
var groupings = map[string]func(*Tunnel) string{
	"client":   func(t *Tunnel) string { return t.ClientIP },
	"upstream": func(t *Tunnel) string { return t.Upstream },
}

// orders are what groups may be sorted by, the largest one first.
var orders = map[string]func(a, b Group) int{
	"tunnels":       func(a, b Group) int { return cmp.Compare(b.Tunnels, a.Tunnels) },
	"bytes_rate":    func(a, b Group) int { return cmp.Compare(b.BytesRate, a.BytesRate) },
	"messages_rate": func(a, b Group) int { return cmp.Compare(b.MessagesRate, a.MessagesRate) },
}

func (a *server) listGroups(w http.ResponseWriter, f *Filter, query url.Values) error {
	key := groupings[query.Get("group")]
	if name, isLabel := strings.CutPrefix(query.Get("group"), "label."); isLabel && name != "" {
		key = func(t *Tunnel) string { return t.Labels[name] }
	}
	order := orders[cmp.Or(query.Get("sort"), "tunnels")]
	limit := defaultGroups
	var err error
	if s := query.Get("limit"); s != "" {
		limit, err = strconv.Atoi(s)
	}
	switch {
	case !query.Has("group"):
		return refuse(http.StatusBadRequest, "sort is for groups; say which by group")
	case query.Has("after"):
		return refuse(http.StatusBadRequest, "groups are not paged, so there is no after; raise the limit")
	case key == nil:
		return refuse(http.StatusBadRequest, "group is client, upstream or a label such as label.user, not %q", query.Get("group"))
	case order == nil:
		return refuse(http.StatusBadRequest, "sort is tunnels, bytes_rate or messages_rate, not %q", query.Get("sort"))
	case err != nil || limit < 1:
		return refuse(http.StatusBadRequest, "limit is a number of groups, not %q", query.Get("limit"))
	}
	groups := groupsOf(a.Tunnels(f), key)
	slices.SortFunc(groups, func(a, b Group) int { return cmp.Or(order(a, b), strings.Compare(a.Key, b.Key)) })
	return writeJSON(w, http.StatusOK, GroupList{Total: len(groups), Groups: groups[:min(limit, len(groups))]})
}

// groupsOf adds tunnels up by their keys.
func groupsOf(all []LiveTunnel, key func(*Tunnel) string) []Group {
	places, groups, now := make(map[string]int), []Group{}, time.Now()
	for _, t := range all {
		info := t.Info(now)
		k := key(&info)
		i, known := places[k]
		if !known {
			i = len(groups)
			places[k], groups = i, append(groups, Group{Key: k})
		}
		g := &groups[i]
		g.Tunnels++
		g.BytesRate += info.BytesRate
		g.MessagesRate += info.MessagesRate
	}
	return groups
}
