package dashboard

import (
	"cmp"
	"fmt"
	"maps"
	"net/url"
	"slices"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/admin"
)

// crowd is a backend with many tunnels, each of which has two labels.
func crowd(tunnels int) *fake {
	f := one(0)
	for i := range tunnels {
		f.open(admin.Tunnel{
			ID: fmt.Sprintf("T%05d", i), ClientIP: fmt.Sprintf("192.0.2.%d", i%251), Upstream: f.upstreams[i%2].Address, Handler: "chat",
			// In no order, but each its own.
			Age: float64(i * 7919 % tunnels), Idle: float64(i * 104729 % tunnels), BytesIn: uint64(i * 1299709 % tunnels),
			BytesRate: float64(i * 15485863 % tunnels), Labels: map[string]string{"user": fmt.Sprintf("User%d", i), "room": "lobby"},
		})
	}
	return f
}

func TestTunnelsAreTheFirstOnesOfAll(t *testing.T) {
	const tunnels = 1009
	for sort, value := range map[string]func(*admin.Tunnel) float64{
		"age":   func(t *admin.Tunnel) float64 { return t.Age },
		"idle":  func(t *admin.Tunnel) float64 { return t.Idle },
		"bytes": func(t *admin.Tunnel) float64 { return float64(t.BytesIn) },
		"rate":  func(t *admin.Tunnel) float64 { return t.BytesRate },
	} {
		list, err := inUse(t, crowd(tunnels)).list(url.Values{"sort": {sort}}, noon)
		if err != nil {
			t.Fatal(err)
		}
		for i := range list.Tunnels {
			if got, want := value(&list.Tunnels[i]), float64(tunnels-1-i); got != want {
				t.Fatalf("by %s, the tunnel at %d has %v, want %v", sort, i, got, want)
			}
		}
		if list.Total != tunnels || list.Matching != tunnels || len(list.Tunnels) != mostTunnels {
			t.Errorf("%d of %d, of which %d match, want %d of %d", len(list.Tunnels), list.Total, list.Matching, mostTunnels, tunnels)
		}
	}
	list, err := inUse(t, crowd(tunnels)).list(url.Values{"sort": {"client"}}, noon)
	if err != nil {
		t.Fatal(err)
	}
	byClient := func(a, b admin.Tunnel) int {
		return cmp.Or(cmp.Compare(a.ClientIP, b.ClientIP), cmp.Compare(a.ID, b.ID))
	}
	if !slices.IsSortedFunc(list.Tunnels, byClient) || list.Tunnels[0].ClientIP != "192.0.2.0" {
		t.Error("those of one client are not together")
	}
}

func TestTunnelsAreFoundByWhatIsShown(t *testing.T) {
	b := inUse(t, crowd(100))
	for text, want := range map[string]int{
		"":            100,
		"t00042":      1,
		" USER42 ":    1,
		"user=user42": 1,
		"r=user42":    1,
		"room=user42": 0,
		"room=":       100,
		"LOBBY":       100,
		"10.0.0.1:80": 50,
		"192.0.2.7":   11, // and 70 to 79
		"chat":        100,
		"nobody":      0,
	} {
		list, err := b.list(url.Values{"search": {text}}, noon)
		if err != nil {
			t.Fatal(err)
		}
		found := len(b.find(text, ""))
		if list.Matching != want || len(list.Tunnels) != want || found != want || list.Total != 100 {
			t.Errorf("%q finds %d of %d, of which %d are listed, and %d to close; want %d", text, list.Matching, list.Total, len(list.Tunnels), found, want)
		}
	}
	if list, _ := b.list(url.Values{"upstream": {"10.0.0.2:80"}, "search": {"t0004"}}, noon); list.Matching != 5 {
		t.Errorf("%d are found at one upstream, want 5", list.Matching)
	}
	if _, err := b.list(url.Values{"sort": {"colour"}}, noon); err == nil {
		t.Error("they are sorted by colour")
	}
	list, _ := b.list(url.Values{"search": {"user=user42"}}, noon)
	if want := map[string]string{"user": "User42", "room": "lobby"}; !maps.Equal(list.Tunnels[0].Labels, want) {
		t.Errorf("the labels are %v, want %v", list.Tunnels[0].Labels, want)
	}
}

// A list is asked for every two seconds by everybody who looks.
func TestListMakesNothingOfTunnelsThatAreNotShown(t *testing.T) {
	b := inUse(t, crowd(9000))
	for _, query := range []url.Values{{}, {"sort": {"rate"}, "search": {"lobby"}}} {
		allocations := testing.AllocsPerRun(1, func() { _, _ = b.list(query, noon) })
		if allocations > 1000 {
			t.Errorf("%v allocations for %d tunnels of 9,000, asked for by %v", allocations, mostTunnels, query)
		}
	}
}

func BenchmarkList(b *testing.B) {
	board := inUse(b, crowd(9000))
	for name, query := range map[string]url.Values{"all": {}, "search": {"search": {"lobby"}, "sort": {"rate"}}} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			_, _ = board.list(query, noon)
			for b.Loop() {
				if _, err := board.list(query, noon); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
