package admin

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/tunnel"
)

func TestTunnelFilterForClients(t *testing.T) {
	for _, c := range []struct {
		filter, client string
		want           bool
	}{
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.11", false},
		{"192.0.2.0/24", "192.0.2.77", true},
		{"192.0.2.77/24", "192.0.2.1", true},
		{"192.0.2.0/24", "192.0.3.1", false},
		{"192.0.2.1", "::ffff:192.0.2.1", true},
		{"::ffff:192.0.2.1", "192.0.2.1", true},
		{"::ffff:192.0.2.0/120", "192.0.2.9", true},
		{"::ffff:192.0.2.0/120", "192.0.3.9", false},
		{"2001:db8::/32", "2001:db8:1::1", true},
		{"2001:db8::1", "2001:db8::1", true},
		{"fe80::1%eth0", "fe80::1%eth1", true},
		{"fe80::/10", "fe80::1%eth1", true},
		{"0.0.0.0/0", "2001:db8::1", false},
		{"0.0.0.0/0", "", false},
		{"0.0.0.0/0", "@", false},
	} {
		f := Filter{Client: c.filter}
		if err := f.Parse(); err != nil {
			t.Errorf("%s: %v", c.filter, err)
			continue
		}
		if got := f.Matches(&tunnel.About{Upstream: "localhost:9000", Handler: "chat", ClientIP: c.client}); got != c.want {
			t.Errorf("%q is in %s: %t, want %t", c.client, c.filter, got, c.want)
		}
	}
}

// A value that is not kept whole is as good as that of others who begin alike, and these
// are closed with it.
func TestTunnelFilterForLabels(t *testing.T) {
	longest := strings.Repeat("x", tunnel.MaxLabelValue)
	for name, c := range map[string]struct {
		filter, value string
		want          bool
	}{
		"the value":                     {"alice", "alice", true},
		"the beginning":                 {"ali", "alice", false},
		"more":                          {"alice", "ali", false},
		"the longest value":             {longest, longest, true},
		"a tunnel without it":           {"alice", "", false},
		"controls":                      {"a\nb", "a\nb", true},
		"a backslash":                   {`a\nb`, `a\nb`, true},
		"a backslash, and controls":     {`a\nb`, "a\nb", false},
		"who looks like controls":       {"a\nb", `a\x0ab`, false},
		"controls as they are shown":    {`a\x0ab`, "a\nb", false},
		"the beginning of a longer one": {longest, longest + "y", false},
	} {
		f := Filter{Labels: map[string]string{"user": c.filter}}
		if err := f.Parse(); err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		about := tunnel.About{Labels: tunnel.NewLabels(maps.All(map[string]string{"user": c.value}))}
		if got := f.Matches(&about); got != c.want {
			t.Errorf("%s: matches: %t, want %t", name, got, c.want)
		}
	}
	for name, value := range map[string]string{
		"one byte more":      longest + "x",
		"a character more":   strings.Repeat("é", tunnel.MaxLabelValue/2) + "é",
		"longer by escapes":  strings.Repeat("\x00", tunnel.MaxLabelValue/4+1),
		"escapes at the end": longest[1:] + "\n",
		"what a cut one has": longest[:tunnel.MaxLabelValue-len("…")] + "…",
	} {
		f := Filter{Labels: map[string]string{"user": value}}
		if err := f.Parse(); err == nil || !strings.HasPrefix(err.Error(), "label user has a value of 1") {
			t.Errorf("%s: the error is %v, want the filter refused", name, err)
		}
	}
}

// goneReader is a client that leaves while it is answered.
type goneReader struct {
	bytes.Buffer

	writes int
}

func (*goneReader) Header() http.Header { return make(http.Header) }
func (*goneReader) WriteHeader(int)     {}

func (g *goneReader) Write(p []byte) (int, error) {
	if g.writes++; g.writes > 5 {
		return 0, io.ErrClosedPipe
	}
	return g.Buffer.Write(p)
}

func TestALongListIsStreamed(t *testing.T) {
	page := make([]LiveTunnel, 1000)
	for i := range page {
		page[i] = fakeTunnel(fmt.Sprintf("%04d", i))
	}
	w := new(goneReader)
	streamTunnels(w, page, len(page), "")
	if w.writes != 6 || w.Len() == 0 || w.Len() > 2000 {
		t.Errorf("%d bytes in %d writes to somebody who leaves at the sixth", w.Len(), w.writes)
	}
	all := httptest.NewRecorder()
	streamTunnels(all, page, len(page), "next")
	var list struct {
		Total   int
		Next    string
		Tunnels []Tunnel
	}
	if err := json.Unmarshal(all.Body.Bytes(), &list); err != nil || list.Total != len(page) ||
		len(list.Tunnels) != len(page) || list.Next != "next" {
		t.Errorf("%d tunnels of %d, next %q, %v", len(list.Tunnels), list.Total, list.Next, err)
	}
}
