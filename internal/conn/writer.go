package conn

import (
	"errors"
	"net/http"
)

// errNoHijack means that some handler in front has replaced the response
// writer by one that hides the connection.
var errNoHijack = errors.New("the client's connection is hidden by a response writer without Unwrap or Hijack")

// Hijacker returns the server's own response writer. Hijacking there gives the
// bare connection; wrappers would give one that counts bytes without locks and
// hides CloseWrite.
func Hijacker(w http.ResponseWriter) (http.Hijacker, error) {
	if h, ok := Innermost(w).(http.Hijacker); ok {
		return h, nil
	}
	return nil, errNoHijack
}

// Innermost returns the server's own response writer, without those that handlers
// have put around it.
func Innermost(w http.ResponseWriter) http.ResponseWriter {
	for {
		inner, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			return w
		}
		w = inner.Unwrap()
	}
}
