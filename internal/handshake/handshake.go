// Package handshake is what RFC 6455, RFC 8441 and RFC 9220 ask of both sides of an
// opening handshake: which requests ask for a WebSocket, what a client's has to be
// like, who may send it, what goes upstream for it, and what a valid answer is. It
// only looks at requests and responses: it does no I/O, has no locks, knows nothing
// of Caddy, and leaves to its callers which status says what is wrong.
package handshake

import (
	"crypto/rand"
	"encoding/base64"
	"net/http"
	"strings"
)

// The names of header fields as RFC 6455 spells them. Go's canonical form
// differs ("Sec-Websocket-Key"), and some servers compare bytes, so these are
// put into header maps as they are.
const (
	FieldKey        = "Sec-WebSocket-Key"
	FieldAccept     = "Sec-WebSocket-Accept"
	FieldVersion    = "Sec-WebSocket-Version"
	FieldProtocol   = "Sec-WebSocket-Protocol"
	FieldExtensions = "Sec-WebSocket-Extensions"
)

// canonical are the names of these fields in Go's form, in which they arrive: to make that
// of a name takes an allocation.
var canonical = map[string]string{
	FieldKey:        http.CanonicalHeaderKey(FieldKey),
	FieldAccept:     http.CanonicalHeaderKey(FieldAccept),
	FieldVersion:    http.CanonicalHeaderKey(FieldVersion),
	FieldProtocol:   http.CanonicalHeaderKey(FieldProtocol),
	FieldExtensions: http.CanonicalHeaderKey(FieldExtensions),
}

// Canonical returns the name of one of these fields as it arrives.
func Canonical(field string) string { return canonical[field] }

// valuesOf returns the values of one of these fields.
func valuesOf(header http.Header, field string) []string { return header[canonical[field]] }

// Spell returns the name of a field, in Go's canonical form, as it is sent.
func Spell(name string) string {
	if strings.HasPrefix(name, "Sec-Websocket-") {
		for spelled, arrived := range canonical {
			if arrived == name {
				return spelled
			}
		}
	}
	return name
}

// Version is the only one of the protocol (RFC 6455 section 4.1).
const Version = "13"

// Offer is what a client offers in its handshake, and a proxy for it in its own.
type Offer struct {
	// Stream tells that the client's is an extended CONNECT: the tunnel is a stream
	// of an HTTP/2 or HTTP/3 connection (RFC 8441, RFC 9220).
	Stream bool
	// Key is the Sec-WebSocket-Key for the upstream, the client's own where it
	// has one.
	Key string
	// Subprotocols and Extensions are the names that are offered to the
	// upstream.
	Subprotocols, Extensions []string
}

// NewKey returns a Sec-WebSocket-Key.
func NewKey() string {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// Apply puts the handshake's own fields into the request for the upstream, in the
// spelling of RFC 6455. Whatever else changes its header comes before.
func (o *Offer) Apply(out *http.Request) {
	for name, arrived := range canonical {
		if values, ok := out.Header[arrived]; ok {
			delete(out.Header, arrived)
			out.Header[name] = values
		}
	}
	own := []string{"Upgrade", "websocket", o.Key, Version} // one piece of memory for all
	out.Header["Connection"] = own[0:1:1]
	out.Header["Upgrade"] = own[1:2:2]
	out.Header[FieldKey] = own[2:3:3]
	out.Header[FieldVersion] = own[3:4:4]
	delete(out.Header, FieldAccept)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // keeps Request.Write from adding Go's
	}
	// The upstream may choose from what it is offered, whoever has added that.
	o.Subprotocols = ListValues(out.Header[FieldProtocol])
	o.Extensions = extensionNames(out.Header[FieldExtensions])
}
