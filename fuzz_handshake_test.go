package websocketproxy

import (
	"bufio"
	"bytes"
	"net"
	"net/http"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"

	"golang.org/x/net/http/httpguts"

	"github.com/seed-58ac1b1a/caddy-websocket-proxy/internal/handshake"
)

// fieldLines splits the lines of a header field, as a server gets them: valid
// and trimmed. It returns false if a server would not let them through.
func fieldLines(s string) (values []string, valid bool) {
	if s == "" {
		return nil, true
	}
	for line := range strings.SplitSeq(s, "\n") {
		if !httpguts.ValidHeaderFieldValue(line) {
			return nil, false
		}
		values = append(values, textproto.TrimString(line))
	}
	return values, true
}

// elements splits comma-separated lists, independently of the handler's code.
func elements(values []string) (all []string) {
	for _, s := range regexp.MustCompile(`[ \t]*,[ \t]*`).Split(strings.Join(values, ","), -1) {
		if s = strings.Trim(s, " \t"); s != "" {
			all = append(all, s)
		}
	}
	return all
}

func hasElement(values []string, want string) bool {
	return slices.ContainsFunc(elements(values), func(s string) bool {
		return len(s) == len(want) && strings.EqualFold(s, want)
	})
}

// FuzzCheckHandshake checks that a handshake that is accepted fulfils what
// RFC 6455 section 4.2.1 demands and what the configuration does, and that the
// one that goes to the upstream does too.
func FuzzCheckHandshake(f *testing.F) {
	const key = "dGhlIHNhbXBsZSBub25jZQ=="
	f.Add("GET", "Upgrade", "websocket", key, "13", "", "", "", "example.com", int64(0))
	f.Add("GET", "keep-alive, Upgrade", "WebSocket", key, "13, 13", "chat", "foo; a", "https://a.example.com", "h", int64(0))
	f.Add("GET", "keep-alive\nUpgrade", "h2c\nwebsocket", key, "13\n13", "mqtt,chat\nsoap", "a\nb", "http://H:80", "h", int64(0))
	f.Add("GET", "Upgrade", "websocket", key+"\n"+key, "13", "", "", "null", "[::1]:1", int64(0))
	f.Add("POST", "Upgrade, Sec-WebSocket-Key", "websocket", key, "8", ",", ";", "x", "", int64(-1))
	h := new(Handler)
	var err error
	h.access, err = newAccess(&Access{
		Origins:      []string{"same", "https://*.example.com"},
		Subprotocols: []string{"chat", "superchat"},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, method, connection, upgrade, key, version, protocols, extensions, origin, host string, length int64) {
		r := &http.Request{
			Method: method, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Host: host, ContentLength: length,
			URL: &url.URL{Path: "/"}, Header: http.Header{}, RemoteAddr: "192.0.2.1:80",
		}
		if !httpguts.ValidHostHeader(host) {
			return
		}
		for name, lines := range map[string]string{
			"Connection": connection, "Upgrade": upgrade, handshake.FieldKey: key, handshake.FieldVersion: version,
			handshake.FieldProtocol: protocols, handshake.FieldExtensions: extensions, "Origin": origin,
		} {
			values, valid := fieldLines(lines)
			if !valid {
				return
			}
			for _, v := range values {
				r.Header.Add(name, v)
			}
		}
		ours := hasElement(r.Header["Connection"], "upgrade") && hasElement(r.Header["Upgrade"], "websocket")
		if handshake.IsWebSocket(r) != ours {
			t.Fatalf("it is ours: %t, want %t", handshake.IsWebSocket(r), ours)
		}
		if !ours {
			handshake.RemoveIgnoredUpgrade(r)
			if hasElement(r.Header["Upgrade"], "h2c") || hasElement(r.Header["Upgrade"], "websocket") {
				t.Errorf("the next handler sees Upgrade %q", r.Header["Upgrade"])
			}
			return
		}
		hs := new(clientHandshake)
		refused := h.checkHandshake(r, hs)
		if refused != nil {
			if refused.status < 400 || refused.status > 499 || refused.cause == "" || refused.err == nil {
				t.Errorf("refused with %+v", refused)
			}
			return
		}
		checkAccepted(t, r, hs)
		checkOutbound(t, h, r, hs)
	})
}

// checkAccepted checks the client's handshake.
func checkAccepted(t *testing.T, r *http.Request, hs *clientHandshake) {
	t.Helper()
	if r.Method != http.MethodGet || r.ContentLength != 0 {
		t.Errorf("it is a %s with a body of %d bytes", r.Method, r.ContentLength)
	}
	if keys := r.Header.Values(handshake.FieldKey); len(keys) != 1 || hs.Key != keys[0] {
		t.Errorf("the keys are %q, used is %q", keys, hs.Key)
	}
	versions := elements(r.Header.Values(handshake.FieldVersion))
	if len(versions) == 0 || slices.ContainsFunc(versions, func(v string) bool { return v != "13" }) {
		t.Errorf("the versions are %q", versions)
	}
	if offered := elements(r.Header.Values(handshake.FieldProtocol)); len(offered) > 0 && len(hs.Subprotocols) == 0 {
		t.Errorf("nothing is left of subprotocols %q", offered)
	}
	for _, name := range hs.Subprotocols {
		if name != "chat" && name != "superchat" {
			t.Errorf("subprotocol %q is passed on", name)
		}
	}
	origins := r.Header["Origin"]
	if len(origins) == 0 {
		return
	}
	u, err := url.Parse(origins[0])
	if len(origins) > 1 || err != nil {
		t.Fatalf("the origins are %q", origins)
	}
	host := r.Host
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	if !strings.EqualFold(u.Hostname(), strings.Trim(host, "[]")) &&
		!strings.HasSuffix(strings.ToLower(u.Hostname()), ".example.com") {
		t.Errorf("a page of %q may connect to %q", origins[0], r.Host)
	}
}

// checkOutbound checks the upstream's handshake.
func checkOutbound(t *testing.T, h *Handler, r *http.Request, hs *clientHandshake) {
	t.Helper()
	out := h.outbound(r, hs)
	hs.Apply(out)
	var raw bytes.Buffer
	if err := out.Write(&raw); err != nil {
		t.Fatalf("writing: %v", err)
	}
	text := raw.String()
	got, err := http.ReadRequest(bufio.NewReader(&raw))
	if err != nil {
		t.Fatalf("%v in:\n%s", err, text)
	}
	for name, want := range map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", handshake.FieldKey: hs.Key, handshake.FieldVersion: "13",
	} {
		if values := got.Header.Values(name); len(values) != 1 || values[0] != want {
			t.Errorf("%s is %q, want %q", name, values, want)
		}
	}
	if got.Method != http.MethodGet || got.ContentLength != 0 {
		t.Errorf("not a GET without body:\n%s", text)
	}
	if offered := elements(got.Header.Values(handshake.FieldProtocol)); !slices.Equal(offered, hs.Subprotocols) {
		t.Errorf("offered is %q, expected in the answer %q", offered, hs.Subprotocols)
	}
}
