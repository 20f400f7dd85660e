package directive

import (
	"testing"

	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
)

func TestGuestThatOnlyJSONCanSetUp(t *testing.T) {
	name := caddyfile.Token{File: "Caddyfile", Line: 3, Text: "silent"}
	err := UnmarshalGuest("dynamic", struct{}{}, []caddyfile.Token{name})
	const want = "dynamic silent cannot be used in a Caddyfile, at Caddyfile:3"
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
