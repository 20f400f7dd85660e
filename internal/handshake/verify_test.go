package handshake

import (
	"net/http"
	"strings"
	"testing"
)

func TestOnlyA101ForTheOfferIsOne(t *testing.T) {
	offer := Offer{Key: "dGhlIHNhbXBsZSBub25jZQ==", Subprotocols: []string{"chat"}, Extensions: []string{"foo"}}
	for name, test := range map[string]struct {
		change func(*http.Response)
		says   string // empty: nothing is wrong
	}{
		"as in the RFC":       {func(*http.Response) {}, ""},
		"a choice":            {func(r *http.Response) { r.Header.Set(FieldProtocol, "chat"); r.Header.Set(FieldExtensions, "foo; a=b") }, ""},
		"named twice":         {func(r *http.Response) { r.Header.Set("Upgrade", "websocket, WebSocket") }, ""},
		"HTTP/1.0":            {func(r *http.Response) { r.Proto, r.ProtoMinor = "HTTP/1.0", 0 }, "a 101 over HTTP/1.0"},
		"no Upgrade":          {func(r *http.Response) { r.Header.Del("Upgrade") }, "switches to"},
		"another protocol":    {func(r *http.Response) { r.Header.Set("Upgrade", "websocket, h2c") }, "switches to"},
		"no Connection":       {func(r *http.Response) { r.Header.Set("Connection", "close") }, "no Connection: Upgrade"},
		"no key":              {func(r *http.Response) { r.Header.Del(FieldAccept) }, "wrong Sec-WebSocket-Accept"},
		"another key":         {func(r *http.Response) { r.Header.Set(FieldAccept, AcceptFor("another")) }, "wrong Sec-WebSocket-Accept"},
		"two keys":            {func(r *http.Response) { r.Header.Add(FieldAccept, AcceptFor(offer.Key)) }, "wrong Sec-WebSocket-Accept"},
		"two subprotocols":    {func(r *http.Response) { r.Header.Add(FieldProtocol, "chat"); r.Header.Add(FieldProtocol, "chat") }, "2 subprotocols"},
		"another subprotocol": {func(r *http.Response) { r.Header.Set(FieldProtocol, "token") }, "a subprotocol that was not offered"},
		"another extension":   {func(r *http.Response) { r.Header.Set(FieldExtensions, "foo, bar") }, `extension "bar"`},
	} {
		t.Run(name, func(t *testing.T) {
			resp := &http.Response{Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Header: http.Header{}}
			resp.Header.Set("Upgrade", "websocket")
			resp.Header.Set("Connection", "Upgrade")
			resp.Header.Set(FieldAccept, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=") // RFC 6455 section 1.3
			test.change(resp)
			err := offer.Verify(resp)
			if (err == nil) != (test.says == "") || err != nil && !strings.Contains(err.Error(), test.says) {
				t.Errorf("got %v, want %q", err, test.says)
			}
		})
	}
}
