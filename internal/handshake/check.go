package handshake

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// Fault is what is wrong with a client's handshake.
type Fault int

// What can be wrong with it.
const (
	Malformed      Fault = iota // its target, key or body
	BadMethod                   // it is not a GET
	NoVersion                   // none, or several that differ
	OtherVersion                // another one than 13
	BadOrigin                   // not in the list
	BadSubprotocol              // none of the offered ones is in the list
)

// Error tells why a client's handshake is not accepted.
type Error struct {
	Fault Fault
	Err   error
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

// FaultOf returns what is wrong with a client's handshake by the error that says so.
func FaultOf(err error) Fault {
	if wrong, ok := errors.AsType[*Error](err); ok {
		return wrong.Fault
	}
	return Malformed
}

// Check checks a request that asks for a WebSocket (RFC 6455 section 4.2.1, RFC
// 8441 section 5). Its errors are of the type [*Error].
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
	o.Subprotocols = ListValues(valuesOf(r.Header, FieldProtocol))
	o.Extensions = extensionNames(valuesOf(r.Header, FieldExtensions))
	return o, nil
}

// checkVersion accepts only one version of the protocol (RFC 6455 section 4.2.2).
func checkVersion(r *http.Request) error {
	lines := valuesOf(r.Header, FieldVersion)
	if len(lines) == 1 && lines[0] == Version {
		return nil
	}
	versions := ListValues(lines)
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
	// Without one there is no handshake (RFC 6455 section 4.1, RFC 9113 section
	// 8.3.1), which upstreams would be asked for in vain.
	if r.Host == "" {
		return errors.New("has no host")
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
	keys := valuesOf(r.Header, FieldKey)
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
