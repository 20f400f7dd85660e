package testbed

import (
	"crypto/sha1"
	"encoding/base64"
	"net/http"
	"slices"
	"strings"
)

// sampleKey is the Sec-WebSocket-Key of RFC 6455 §1.3.
const sampleKey = "dGhlIHNhbXBsZSBub25jZQ=="

// HandshakeRequest returns the text of a correct WebSocket handshake.
//
// Each extra is a header line "Name: value". The default lines of that name
// are left out and the extras follow in the order given; an extra "Name:"
// without value only leaves out the default line, if there is one.
func HandshakeRequest(path, host string, extra ...string) string {
	return "GET " + path + " HTTP/1.1\r\n" + headerLines([]string{
		"Host: " + host,
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Key: " + sampleKey,
		"Sec-WebSocket-Version: 13",
	}, extra)
}

// HandshakeResponse returns the text of the 101 for a handshake with the key
// given. The extras work as in [HandshakeRequest].
func HandshakeResponse(key string, extra ...string) string {
	return "HTTP/1.1 101 Switching Protocols\r\n" + headerLines([]string{
		"Upgrade: websocket",
		"Connection: Upgrade",
		"Sec-WebSocket-Accept: " + AcceptKey(key),
	}, extra)
}

// AcceptKey returns the Sec-WebSocket-Accept for a Sec-WebSocket-Key.
func AcceptKey(key string) string {
	sum := sha1.Sum([]byte(key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	return base64.StdEncoding.EncodeToString(sum[:])
}

func headerLines(defaults, extra []string) string {
	var lines []string
	for _, line := range defaults {
		if !slices.ContainsFunc(extra, sameName(line)) {
			lines = append(lines, line)
		}
	}
	for _, line := range extra {
		_, value, _ := strings.Cut(line, ":")
		if strings.TrimSpace(value) != "" || !slices.ContainsFunc(defaults, sameName(line)) {
			lines = append(lines, line)
		}
	}
	return strings.Join(append(lines, "", ""), "\r\n")
}

func sameName(line string) func(string) bool {
	name, _, _ := strings.Cut(line, ":")
	return func(other string) bool {
		otherName, _, _ := strings.Cut(other, ":")
		return strings.EqualFold(name, otherName)
	}
}

// ReadRequest reads the head of a request; the Body can be read afterwards.
func (c *Conn) ReadRequest() *http.Request {
	c.tb.Helper()
	c.keepHead()
	req, err := http.ReadRequest(c.in)
	c.rawHead = c.headKept()
	if err != nil {
		c.fatal("reading a request", err)
	}
	return req
}

// Accept answers a handshake request with a 101. The extras work as in
// [HandshakeRequest].
func (c *Conn) Accept(req *http.Request, extra ...string) {
	c.tb.Helper()
	c.Send(HandshakeResponse(req.Header.Get("Sec-WebSocket-Key"), extra...))
}

// AcceptHandshake reads a request, checks that it is a WebSocket handshake and
// accepts it. The extras work as in [HandshakeRequest].
func (c *Conn) AcceptHandshake(extra ...string) *http.Request {
	c.tb.Helper()
	req := c.ReadRequest()
	if complaint := checkRequest(req); complaint != "" {
		c.tb.Fatalf("%s: handshake request %s:\n%s", c.name, complaint, c.rawHead)
	}
	c.Accept(req, extra...)
	return req
}

// RawHead returns the head read last, byte for byte as it was on the wire.
func (c *Conn) RawHead() string { return c.rawHead }

// keepHead starts to keep what is read, beginning with what was read ahead.
func (c *Conn) keepHead() {
	ahead, _ := c.in.Peek(c.in.Buffered())
	c.source.kept = slices.Clone(ahead)
	c.source.keeping = true
}

// headKept returns what was read since keepHead without what is read ahead.
func (c *Conn) headKept() string {
	c.source.keeping = false
	kept := c.source.kept
	return string(kept[:len(kept)-c.in.Buffered()])
}

// checkRequest returns what is wrong with a handshake request, if anything.
func checkRequest(req *http.Request) string {
	key, err := base64.StdEncoding.DecodeString(req.Header.Get("Sec-WebSocket-Key"))
	switch {
	case req.Method != http.MethodGet || req.Proto != "HTTP/1.1":
		return "is not a GET of HTTP/1.1"
	case req.Host == "":
		return "has no Host"
	case !hasToken(req.Header, "Upgrade", "websocket"):
		return "does not upgrade to websocket"
	case !hasToken(req.Header, "Connection", "upgrade"):
		return "has no Connection: Upgrade"
	case !isSingle(req.Header, "Sec-WebSocket-Key") || err != nil || len(key) != 16:
		return "has not exactly one key of 16 bytes"
	case !isSingle(req.Header, "Sec-WebSocket-Version") ||
		req.Header.Get("Sec-WebSocket-Version") != "13":
		return "has not exactly one version, 13"
	}
	return ""
}

// checkResponse returns what is wrong with the answer to a handshake request
// with the key given, if anything.
func checkResponse(resp *http.Response, key string) string {
	switch {
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return "is not a 101"
	case !hasToken(resp.Header, "Upgrade", "websocket"):
		return "does not upgrade to websocket"
	case !hasToken(resp.Header, "Connection", "upgrade"):
		return "has no Connection: Upgrade"
	case !isSingle(resp.Header, "Sec-WebSocket-Accept") ||
		resp.Header.Get("Sec-WebSocket-Accept") != AcceptKey(key):
		return "has not exactly one Sec-WebSocket-Accept, " + AcceptKey(key)
	}
	return ""
}

func isSingle(h http.Header, name string) bool { return len(h.Values(name)) == 1 }

// hasToken tells whether a comma-separated header contains token.
func hasToken(h http.Header, name, token string) bool {
	for part := range strings.SplitSeq(strings.Join(h.Values(name), ","), ",") {
		if strings.EqualFold(strings.TrimSpace(part), token) {
			return true
		}
	}
	return false
}
