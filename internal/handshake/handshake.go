package handshake

import (
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Version is the only one of the protocol (RFC 6455 section 4.1).
const Version = "13"

// Offer is what a client offers in its handshake, and the proxy for it in its own.
type Offer struct {
	// Stream tells that the client's is an extended CONNECT: the tunnel is a stream
	// of an HTTP/2 or HTTP/3 connection (RFC 8441, RFC 9220).
	Stream bool
	// Key is the Sec-WebSocket-Key for the upstream, the client's own where it
	// has one.
	Key string
	// Subprotocols and extensions are the names that are offered to the
	// upstream.
	Subprotocols, Extensions []string
}

// Fault is what is wrong with a client's handshake.
type Fault int

const (
	Malformed      Fault = iota // target, key or body
	BadMethod                   // not a GET
	NoVersion                   // no version, or several
	OtherVersion                // another version than 13
	BadOrigin                   // not in the list
	BadSubprotocol              // none of the offered ones is in the list
)

// Error tells why a client's handshake is not accepted.
type Error struct {
	Fault Fault
	Err   error
}

// FaultOf returns what is wrong with a handshake that was not accepted for err.
func FaultOf(err error) Fault {
	if wrong, ok := errors.AsType[*Error](err); ok {
		return wrong.Fault
	}
	return Malformed
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// Check checks a request that asks for a WebSocket (RFC 6455 section 4.2.1, RFC
// 8441 section 5). Its errors are of the type [handshakeError].
func Check(r *http.Request) (Offer, error) {
	o := Offer{Stream: isExtendedConnect(r)}
	if !o.Stream && r.Method != http.MethodGet {
		return o, &Error{BadMethod, fmt.Errorf("a handshake is a GET, not a %s", r.Method)}
	}
	if err := checkVersion(r); err != nil {
		return o, err
	}
	if err := o.checkForm(r); err != nil {
		return o, &Error{Malformed, err}
	}
	o.Subprotocols = ListValues(r.Header.Values(FieldProtocol))
	o.Extensions = extensionNames(r.Header.Values(FieldExtensions))
	return o, nil
}

// checkVersion returns an error for other versions of the protocol than 13 (RFC 6455
// sections 4.2.2 and 4.4).
func checkVersion(r *http.Request) error {
	versions := ListValues(r.Header.Values(FieldVersion))
	if len(versions) == 0 {
		return &Error{NoVersion, errors.New("no " + FieldVersion)}
	}
	for _, v := range versions[1:] {
		if v != versions[0] {
			return &Error{NoVersion, fmt.Errorf("differing %s: %q", FieldVersion, versions)}
		}
	}
	if versions[0] != Version {
		return &Error{OtherVersion, fmt.Errorf("version %q is not supported", versions[0])}
	}
	return nil
}

// checkForm checks the rest of the request's form and takes or makes the key.
func (o *Offer) checkForm(r *http.Request) error {
	if err := checkTarget(r.URL); err != nil {
		return err
	}
	if o.Stream {
		// Not even zero (RFC 9110 section 9.3.6): the servers would take what is
		// sent through the tunnel for too much of a body. HTTP/2's makes zero of
		// what is no number.
		if len(r.Header["Content-Length"]) > 0 || r.ContentLength > 0 {
			return errors.New("has a Content-Length")
		}
		o.Key = NewKey()
		return nil
	}
	// A body would be read as frames, or keep a tunnel's connection under the
	// server's timeouts for bodies.
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return errors.New("has a body")
	}
	keys := r.Header.Values(FieldKey)
	if len(keys) != 1 || !httpguts.ValidHeaderFieldValue(keys[0]) {
		return fmt.Errorf("%d %s fields, not a valid one", len(keys), FieldKey)
	}
	// There are devices whose keys are not 16 bytes in base64, and servers that do
	// not mind. What answers it has to judge it.
	o.Key = keys[0]
	return nil
}

// checkTarget checks what goes upstream as the target of the request, after rewrites
// (RFC 9112 section 3.2). A URL may hold more than such a target: what is no path,
// and what would end the request line.
func checkTarget(u *url.URL) error {
	switch scheme := strings.ToLower(u.Scheme); {
	case scheme != "" && scheme != "http" && scheme != "https", u.Opaque != "":
		return errors.New("the request's target is neither a path nor an http URL")
	case !strings.HasPrefix(u.RequestURI(), "/"):
		return errors.New("the path of the request's target does not begin with /")
	case strings.ContainsFunc(u.RequestURI(), func(c rune) bool { return c <= ' ' || c == 0x7f }):
		return errors.New("the request's target has a space or a control character")
	}
	return nil
}

// NewKey returns a Sec-WebSocket-Key.
func NewKey() string {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// Restrict leaves of the offered subprotocols those that may be spoken, in the client's
// order of preference. Without a list, all may.
func (o *Offer) Restrict(allowed []string) error {
	offered := o.Subprotocols
	if len(allowed) == 0 || len(offered) == 0 {
		return nil
	}
	o.Subprotocols = slices.DeleteFunc(slices.Clone(offered), func(name string) bool {
		return !slices.Contains(allowed, name)
	})
	if len(o.Subprotocols) == 0 {
		// Browsers' applications send tokens as if they were subprotocols, so what
		// was offered is not for logs.
		return &Error{BadSubprotocol, fmt.Errorf("none of the %d offered subprotocols is in the list: %s",
			len(offered), strings.Join(allowed, ", "))}
	}
	return nil
}

// Apply puts the handshake's own fields into the request for the upstream, in the
// spelling of RFC 6455. Whatever else changes its header comes before.
func (o *Offer) Apply(out *http.Request) {
	for canonical, name := range spellings {
		if values, ok := out.Header[canonical]; ok {
			delete(out.Header, canonical)
			out.Header[name] = values
		}
	}
	out.Header["Connection"] = []string{"Upgrade"}
	out.Header["Upgrade"] = []string{"websocket"}
	out.Header[FieldKey] = []string{o.Key}
	out.Header[FieldVersion] = []string{Version}
	delete(out.Header, FieldAccept)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // keeps Request.Write from adding Go's
	}
	// The upstream may choose from what it is offered, whoever has added that.
	o.Subprotocols = ListValues(out.Header[FieldProtocol])
	o.Extensions = extensionNames(out.Header[FieldExtensions])
}
