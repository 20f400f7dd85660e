package websocketproxy

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

// version is the only one of the protocol (RFC 6455 section 4.1).
const version = "13"

// offer is what a client offers in its handshake, and the proxy for it in its own.
type offer struct {
	// stream tells that the client's is an extended CONNECT: the tunnel is a stream
	// of an HTTP/2 or HTTP/3 connection (RFC 8441, RFC 9220).
	stream bool
	// key is the Sec-WebSocket-Key for the upstream, the client's own where it
	// has one.
	key string
	// subprotocols and extensions are the names that are offered to the
	// upstream.
	subprotocols, extensions []string
}

// fault is what is wrong with a client's handshake.
type fault int

const (
	malformed      fault = iota // target, key or body
	badMethod                   // not a GET
	noVersion                   // no version, or several
	otherVersion                // another version than 13
	badOrigin                   // not in the list
	badSubprotocol              // none of the offered ones is in the list
)

// handshakeError tells why a client's handshake is not accepted.
type handshakeError struct {
	fault fault
	err   error
}

// faultOf returns what is wrong with a handshake that was not accepted for err.
func faultOf(err error) fault {
	if wrong, ok := errors.AsType[*handshakeError](err); ok {
		return wrong.fault
	}
	return malformed
}

func (e *handshakeError) Error() string { return e.err.Error() }
func (e *handshakeError) Unwrap() error { return e.err }

// checkRequest checks a request that asks for a WebSocket (RFC 6455 section 4.2.1, RFC
// 8441 section 5). Its errors are of the type [handshakeError].
func checkRequest(r *http.Request) (offer, error) {
	o := offer{stream: isExtendedConnect(r)}
	if !o.stream && r.Method != http.MethodGet {
		return o, &handshakeError{badMethod, fmt.Errorf("a handshake is a GET, not a %s", r.Method)}
	}
	if err := checkVersion(r); err != nil {
		return o, err
	}
	if err := o.checkForm(r); err != nil {
		return o, &handshakeError{malformed, err}
	}
	o.subprotocols = listValues(r.Header.Values(fieldProtocol))
	o.extensions = extensionNames(r.Header.Values(fieldExtensions))
	return o, nil
}

// checkVersion returns an error for other versions of the protocol than 13 (RFC 6455
// sections 4.2.2 and 4.4).
func checkVersion(r *http.Request) error {
	versions := listValues(r.Header.Values(fieldVersion))
	if len(versions) == 0 {
		return &handshakeError{noVersion, errors.New("no " + fieldVersion)}
	}
	for _, v := range versions[1:] {
		if v != versions[0] {
			return &handshakeError{noVersion, fmt.Errorf("differing %s: %q", fieldVersion, versions)}
		}
	}
	if versions[0] != version {
		return &handshakeError{otherVersion, fmt.Errorf("version %q is not supported", versions[0])}
	}
	return nil
}

// checkForm checks the rest of the request's form and takes or makes the key.
func (o *offer) checkForm(r *http.Request) error {
	if err := checkTarget(r.URL); err != nil {
		return err
	}
	if o.stream {
		// Not even zero (RFC 9110 section 9.3.6): the servers would take what is
		// sent through the tunnel for too much of a body. HTTP/2's makes zero of
		// what is no number.
		if len(r.Header["Content-Length"]) > 0 || r.ContentLength > 0 {
			return errors.New("has a Content-Length")
		}
		o.key = newKey()
		return nil
	}
	// A body would be read as frames, or keep a tunnel's connection under the
	// server's timeouts for bodies.
	if r.ContentLength != 0 || len(r.TransferEncoding) > 0 {
		return errors.New("has a body")
	}
	keys := r.Header.Values(fieldKey)
	if len(keys) != 1 || !httpguts.ValidHeaderFieldValue(keys[0]) {
		return fmt.Errorf("%d %s fields, not a valid one", len(keys), fieldKey)
	}
	// There are devices whose keys are not 16 bytes in base64, and servers that do
	// not mind. What answers it has to judge it.
	o.key = keys[0]
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

// newKey returns a Sec-WebSocket-Key.
func newKey() string {
	key := make([]byte, 16)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

// restrict leaves of the offered subprotocols those that may be spoken, in the client's
// order of preference. Without a list, all may.
func (o *offer) restrict(allowed []string) error {
	offered := o.subprotocols
	if len(allowed) == 0 || len(offered) == 0 {
		return nil
	}
	o.subprotocols = slices.DeleteFunc(slices.Clone(offered), func(name string) bool {
		return !slices.Contains(allowed, name)
	})
	if len(o.subprotocols) == 0 {
		// Browsers' applications send tokens as if they were subprotocols, so what
		// was offered is not for logs.
		return &handshakeError{badSubprotocol, fmt.Errorf("none of the %d offered subprotocols is in the list: %s",
			len(offered), strings.Join(allowed, ", "))}
	}
	return nil
}

// apply puts the handshake's own fields into the request for the upstream, in the
// spelling of RFC 6455. Whatever else changes its header comes before.
func (o *offer) apply(out *http.Request) {
	for canonical, name := range spellings {
		if values, ok := out.Header[canonical]; ok {
			delete(out.Header, canonical)
			out.Header[name] = values
		}
	}
	out.Header["Connection"] = []string{"Upgrade"}
	out.Header["Upgrade"] = []string{"websocket"}
	out.Header[fieldKey] = []string{o.key}
	out.Header[fieldVersion] = []string{version}
	delete(out.Header, fieldAccept)
	if _, ok := out.Header["User-Agent"]; !ok {
		out.Header["User-Agent"] = []string{""} // keeps Request.Write from adding Go's
	}
	// The upstream may choose from what it is offered, whoever has added that.
	o.subprotocols = listValues(out.Header[fieldProtocol])
	o.extensions = extensionNames(out.Header[fieldExtensions])
}
