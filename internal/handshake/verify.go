package handshake

import (
	"crypto/sha1" //nolint:gosec // RFC 6455 section 4.2.2 prescribes it; nothing depends on its strength
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Verify checks a 101 (RFC 6455 section 4.2.2). What passes for a tunnel without
// being one would let a client talk past the proxy to the upstream's HTTP.
func (o *Offer) Verify(resp *http.Response) error {
	header := resp.Header
	if resp.ProtoMajor != 1 || resp.ProtoMinor < 1 {
		return fmt.Errorf("a 101 over %s", resp.Proto)
	}
	// Some name it twice, which the client does not get to see.
	if protocols := ListValues(header["Upgrade"]); len(protocols) == 0 || slices.ContainsFunc(protocols, isNotWebSocket) {
		return fmt.Errorf("the 101 switches to %q, not websocket", header["Upgrade"])
	}
	if !httpguts.HeaderValuesContainsToken(header["Connection"], "upgrade") {
		return errors.New("the 101 has no Connection: Upgrade")
	}
	if accept := valuesOf(header, FieldAccept); len(accept) != 1 || accept[0] != AcceptFor(o.Key) {
		return fmt.Errorf("the 101 has the wrong %s: %q", FieldAccept, accept)
	}
	switch chosen := valuesOf(header, FieldProtocol); {
	case len(chosen) > 1:
		return fmt.Errorf("the 101 has %d subprotocols", len(chosen))
	case len(chosen) == 1 && !slices.Contains(o.Subprotocols, chosen[0]):
		return errors.New("the 101 has a subprotocol that was not offered") // maybe a token that was, see Restrict
	}
	for _, name := range extensionNames(valuesOf(header, FieldExtensions)) {
		if !slices.Contains(o.Extensions, name) {
			return fmt.Errorf("the 101 has extension %q, which was not offered", name)
		}
	}
	return nil
}

func isNotWebSocket(protocol string) bool { return !strings.EqualFold(protocol, "websocket") }

// AcceptFor computes Sec-WebSocket-Accept (RFC 6455 section 1.3).
func AcceptFor(key string) string {
	const guid = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
	var room [64]byte                                          // for keys of 16 bytes in base64
	sum := sha1.Sum(append(append(room[:0], key...), guid...)) //nolint:gosec // see import
	var text [28]byte
	base64.StdEncoding.Encode(text[:], sum[:])
	return string(text[:])
}
