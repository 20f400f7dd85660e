package forward

import (
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"testing"
)

// The rest of the rules of reverse_proxy, for what loopback connections do not
// have.
func TestForwardedFieldsAsReverseProxySetsThem(t *testing.T) {
	const xff, xfp, xfh = "X-Forwarded-For", "X-Forwarded-Proto", "X-Forwarded-Host"
	tests := map[string]struct {
		peer    string
		trusted bool // by the server
		tls     bool
		header  http.Header
		want    http.Header
	}{
		"nothing sent": {
			peer: "192.0.2.1:80",
			want: http.Header{xff: {"192.0.2.1"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"IPv6 with a zone": {
			peer: "[fe80::1%eth0]:80", tls: true,
			want: http.Header{xff: {"fe80::1"}, xfp: {"https"}, xfh: {"example.com"}},
		},
		"trusted by the server": {
			peer: "192.0.2.1:80", trusted: true,
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"http", "https"}, xfh: {"a.example"}},
			want:   http.Header{xff: {"198.51.100.7, 192.0.2.1"}, xfp: {"https"}, xfh: {"a.example"}},
		},
		"one of the proxies": {
			peer:   "203.0.113.9:80",
			header: http.Header{xff: {"198.51.100.7"}},
			want:   http.Header{xff: {"198.51.100.7, 203.0.113.9"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"trusted, with empty fields": {
			peer: "192.0.2.1:80", trusted: true,
			header: http.Header{xff: {""}, xfp: {""}, xfh: {""}},
			want:   http.Header{xff: {"192.0.2.1"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"untrusted unix socket": {
			peer:   "@",
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"https"}, xfh: {"a.example"}},
			want:   http.Header{},
		},
		"trusted unix socket": {
			peer: "@", trusted: true,
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"https"}},
			want:   http.Header{xff: {"198.51.100.7"}, xfp: {"https"}, xfh: {"example.com"}},
		},
		"trusted unix socket, nothing sent": {
			peer: "@", trusted: true,
			want: http.Header{xfp: {"http"}, xfh: {"example.com"}},
		},
		"an address of another form": {
			peer: "somewhere", trusted: true,
			header: http.Header{xff: {"198.51.100.7"}, xfp: {"https"}, xfh: {"a.example"}},
			want:   http.Header{},
		},
		"an address that is not one": {
			peer:   "somewhere:80",
			header: http.Header{xff: {"198.51.100.7"}},
			want:   http.Header{xff: {"somewhere"}, xfp: {"http"}, xfh: {"example.com"}},
		},
		"fields that an earlier handler forbids": {
			peer: "192.0.2.1:80", trusted: true,
			header: http.Header{xff: nil, xfp: nil, xfh: nil},
			want:   http.Header{xff: nil, xfp: nil, xfh: nil},
		},
	}
	proxies := []netip.Prefix{netip.MustParsePrefix("203.0.113.9/32")}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			got := http.Header{}
			maps.Copy(got, test.header)
			SetForwarded(got, PeerOf(test.peer, test.trusted, proxies), test.tls, "example.com")
			if !maps.EqualFunc(got, test.want, slices.Equal) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}
