package handshake

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
)

func TestOriginsAreCompared(t *testing.T) {
	tests := []struct {
		name    string
		allowed []string
		host    string
		sent    []string
		want    bool
	}{
		{"any", nil, "example.com", []string{"https://evil.example"}, true},
		{"any, also if malformed", nil, "example.com", []string{"?", "!"}, true},
		{"none sent", []string{"https://example.com"}, "example.com", nil, true},

		{"the one", []string{"https://example.com"}, "x", []string{"https://example.com"}, true},
		{"one of several", []string{"https://a.example", "https://b.example"}, "x", []string{"https://b.example"}, true},
		{"other case", []string{"HTTPS://Example.com"}, "x", []string{"https://eXample.COM"}, true},
		{"default port is sent", []string{"https://example.com"}, "x", []string{"https://example.com:443"}, true},
		{"default port is listed", []string{"http://example.com:80"}, "x", []string{"http://example.com"}, true},
		{"another port", []string{"https://example.com"}, "x", []string{"https://example.com:8443"}, false},
		{"the port of the other scheme", []string{"https://example.com"}, "x", []string{"https://example.com:80"}, false},
		{"another scheme", []string{"https://example.com"}, "x", []string{"http://example.com"}, false},
		{"another scheme on the same port", []string{"https://example.com"}, "x", []string{"http://example.com:443"}, false},
		{"a longer name", []string{"https://example.com"}, "x", []string{"https://example.com.evil.example"}, false},
		{"a name with the listed end", []string{"https://example.com"}, "x", []string{"https://evilexample.com"}, false},
		{"a subdomain", []string{"https://example.com"}, "x", []string{"https://www.example.com"}, false},
		{"the same host, but not in the list", []string{"https://a.example"}, "b.example", []string{"https://b.example"}, false},
		{"another kind of scheme", []string{"chrome-extension://abcdef"}, "x", []string{"chrome-extension://abcdef"}, true},

		{"IPv6", []string{"http://[::1]:8080"}, "x", []string{"http://[::1]:8080"}, true},
		{"IPv6, another port", []string{"http://[::1]:8080"}, "x", []string{"http://[::1]"}, false},

		{"wildcard", []string{"https://*.example.com"}, "x", []string{"https://a.example.com"}, true},
		{"wildcard, deeper", []string{"https://*.example.com"}, "x", []string{"https://a.b.example.com"}, true},
		{"wildcard, other case", []string{"https://*.Example.com"}, "x", []string{"https://A.EXAMPLE.com"}, true},
		{"wildcard, the domain itself", []string{"https://*.example.com"}, "x", []string{"https://example.com"}, false},
		{"wildcard, a name with the listed end", []string{"https://*.example.com"}, "x", []string{"https://evilexample.com"}, false},
		{"wildcard, another port", []string{"https://*.example.com"}, "x", []string{"https://a.example.com:444"}, false},
		{"wildcard with a port", []string{"https://*.example.com:444"}, "x", []string{"https://a.example.com:444"}, true},
		{"wildcard, another scheme", []string{"https://*.example.com"}, "x", []string{"http://a.example.com"}, false},
		{"wildcard, null", []string{"https://*.example.com"}, "x", []string{"null"}, false},

		{"null is listed", []string{"null"}, "x", []string{"null"}, true},
		{"null is not listed", []string{"https://example.com", "same"}, "null", []string{"null"}, false},
		{"a URL called null", []string{"null"}, "x", []string{"null://x"}, false},
		{"NULL is no origin", []string{"null"}, "x", []string{"NULL"}, false},
		{"null only", []string{"null"}, "x", []string{"https://example.com"}, false},

		{"same", []string{"same"}, "example.com", []string{"https://example.com"}, true},
		{"same over http", []string{"same"}, "example.com", []string{"http://example.com"}, true},
		{"same, other case", []string{"same"}, "EXAMPLE.com", []string{"https://example.COM"}, true},
		{"same with the default port in Host", []string{"same"}, "example.com:443", []string{"https://example.com"}, true},
		{"same with the default port in Origin", []string{"same"}, "example.com", []string{"http://example.com:80"}, true},
		{"same with ports", []string{"same"}, "example.com:8443", []string{"https://example.com:8443"}, true},
		{"same, another port", []string{"same"}, "example.com:8443", []string{"https://example.com"}, false},
		{"same, the port of the other scheme", []string{"same"}, "example.com:80", []string{"https://example.com"}, false},
		{"same, another host", []string{"same"}, "example.com", []string{"https://evil.example"}, false},
		{"same, IPv6", []string{"same"}, "[2001:db8::1]:81", []string{"http://[2001:db8::1]:81"}, true},
		{"same, IPv6 without port", []string{"same"}, "[2001:db8::1]", []string{"http://[2001:db8::1]"}, true},
		{"same, another IPv6", []string{"same"}, "[2001:db8::1]", []string{"http://[2001:db8::2]"}, false},
		{"same, no Host", []string{"same"}, "", []string{"http://example.com"}, false},
		{"same, a scheme without ports", []string{"same"}, "example.com", []string{"app://example.com"}, false},
		{"same or listed", []string{"same", "https://a.example"}, "example.com", []string{"https://a.example"}, true},

		{"files", []string{"file://"}, "x", []string{"file://"}, true},
		{"files are not listed", []string{"null", "same", "https://example.com"}, "", []string{"file://"}, false},
		{"a file", []string{"file://"}, "x", []string{"file:///"}, false},
		{"files of a host", []string{"file://"}, "x", []string{"file://x"}, false},

		{"two fields", []string{"https://example.com"}, "x", []string{"https://example.com", "https://example.com"}, false},
		{"two in a field", []string{"https://example.com"}, "x", []string{"https://example.com https://b.example"}, false},
		{"an empty field", []string{"same", "null"}, "", []string{""}, false},
		{"only a host", []string{"https://example.com", "same"}, "example.com", []string{"example.com"}, false},
		{"a path", []string{"https://example.com"}, "x", []string{"https://example.com/"}, false},
		{"a query", []string{"https://example.com"}, "x", []string{"https://example.com?"}, false},
		{"a fragment", []string{"https://example.com"}, "x", []string{"https://example.com#"}, false},
		{"a user", []string{"https://example.com"}, "x", []string{"https://example.com@example.com"}, false},
		{"an empty user", []string{"https://example.com"}, "x", []string{"https://@example.com"}, false},
		{"an empty port", []string{"https://example.com"}, "x", []string{"https://example.com:"}, false},
		{"no host", []string{"https://example.com", "same"}, "", []string{"https://"}, false},
		{"an asterisk", []string{"https://*.example.com"}, "x", []string{"https://*.example.com"}, false},
		{"an escaped host", []string{"https://example.com"}, "x", []string{"https://example%2ecom"}, false},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var allowed Origins
			for _, s := range test.allowed {
				if !allowed.Add(s) {
					t.Fatalf("%q is no origin", s)
				}
			}
			r := &http.Request{Host: test.host, Header: http.Header{}}
			if test.sent != nil {
				r.Header["Origin"] = test.sent
			}
			if err := allowed.Check(r, plain); (err == nil) != test.want {
				t.Errorf("got %v, want it allowed: %t", err, test.want)
			}
		})
	}
}

func FuzzParseOrigin(f *testing.F) {
	for _, s := range []string{
		"null", "https://example.com", "http://[::1]:8080", "https://*.example.com", "https://a@b", "https://example.com:",
		"app://x", "https://example.com#", "http://[fe80::1%25en0]", "https://exa%6dple.com", "HTTPS://ÄB.example:0443",
		"hptp://v::v::6]:881]:8800",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, ok := parseOrigin(s)
		if !ok {
			if o != (origin{}) {
				t.Errorf("%q is no origin, but gives %+v", s, o)
			}
			return
		}
		if !o.matches(o) {
			t.Errorf("%+v does not match itself", o)
		}
		if o.scheme == "null" && o.host == "" {
			if s != "null" {
				t.Errorf("%q is taken for null", s)
			}
			return
		}
		if o.host == "" || o.scheme == "" || strings.ContainsAny(s, "?#@ *") || strings.Count(s, "/") != 2 {
			t.Errorf("%q is taken for an origin: %+v", s, o)
		}
		// Written out again it means the same.
		u := url.URL{Scheme: o.scheme, Host: o.host}
		if strings.Contains(o.host, ":") {
			u.Host = "[" + o.host + "]"
		}
		if o.port != "" {
			u.Host += ":" + o.port
		}
		if again, ok := parseOrigin(u.String()); !ok || again != o {
			t.Errorf("%q gives %+v, which gives %+v, %t", s, o, again, ok)
		}
	})
}

// plain is for requests that have not come by TLS.
func plain(*http.Request) bool { return false }
