package websocketproxy

import (
	"errors"
	"net/http"
)

// errNoHijack means that some handler in front has replaced the response
// writer by one that hides the connection.
var errNoHijack = errors.New("the client's connection is hidden by a response writer without Unwrap or Hijack")

// hijacker returns the server's own response writer. Hijacking there gives the
// bare connection; wrappers would give one that counts bytes without locks and
// hides CloseWrite.
func hijacker(w http.ResponseWriter) (http.Hijacker, error) {
	if h, ok := innermost(w).(http.Hijacker); ok {
		return h, nil
	}
	return nil, errNoHijack
}

// innermost returns the server's own response writer, without those that handlers
// have put around it.
func innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = inner.Unwrap()
	}
}
