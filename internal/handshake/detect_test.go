package handshake

import (
	"net/http"
	"slices"
	"testing"
)

func TestDisarmedRequestIsNoHandshake(t *testing.T) {
	for name, test := range map[string]struct {
		lines, want []string
	}{
		"only Upgrade":     {[]string{"Upgrade"}, nil},
		"in other case":    {[]string{"uPGRADE, upgrade"}, nil},
		"among others":     {[]string{"keep-alive, Upgrade, X-Hop"}, []string{"keep-alive, X-Hop"}},
		"in several lines": {[]string{"keep-alive", "Upgrade", "X-Hop"}, []string{"keep-alive, X-Hop"}},
	} {
		t.Run(name, func(t *testing.T) {
			r := &http.Request{ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{
				"Connection": test.lines, "Upgrade": {"websocket"}, "X-Hop": {"1"},
			}}
			if !IsWebSocket(r) {
				t.Fatal("it is not ours before")
			}
			Disarm(r)
			if got := r.Header["Connection"]; !slices.Equal(got, test.want) {
				t.Errorf("Connection is %q, want %q", got, test.want)
			}
			if got, ok := r.Header["Upgrade"]; ok {
				t.Errorf("Upgrade is %q, want none", got)
			}
		})
	}
}
