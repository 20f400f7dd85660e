package handshake

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"testing"
)

// streamRequest is an extended CONNECT over HTTP/2, as the server shows it.
func streamRequest(header http.Header) *http.Request {
	return &http.Request{
		Method: http.MethodConnect, Proto: "HTTP/2.0", ProtoMajor: 2,
		URL: &url.URL{Scheme: "https", Host: "example.com", Path: "/"}, Host: "example.com", Header: header,
	}
}

func TestExtendedConnectGetsAKeyOfItsOwn(t *testing.T) {
	keys := make(map[string]bool)
	for range 3 {
		header := http.Header{":protocol": {"websocket"}}
		header.Set(FieldVersion, "13")
		header.Set(FieldKey, "dGhlIHNhbXBsZSBub25jZQ==")
		o, err := Check(streamRequest(header))
		if err != nil {
			t.Fatal(err)
		}
		if !o.Stream {
			t.Error("it is not known to be a stream")
		}
		if key, err := base64.StdEncoding.DecodeString(o.Key); err != nil || len(key) != 16 {
			t.Errorf("key %q is not 16 bytes: %v", o.Key, err)
		}
		keys[o.Key] = true
	}
	if len(keys) != 3 {
		t.Errorf("keys are %v, want 3 different ones", keys)
	}
}

// Content-Length has no meaning in a CONNECT (RFC 9110 section 9.3.6). A server
// would take the tunnel's bytes for too much of a body.
func TestExtendedConnectWithALengthIsRefused(t *testing.T) {
	request := func(length int64, field ...string) *http.Request {
		header := http.Header{":protocol": {"websocket"}, "Content-Length": field}
		header.Set(FieldVersion, "13")
		r := streamRequest(header)
		r.ContentLength = length
		return r
	}
	// What net/http2 makes of fields.
	for name, r := range map[string]*http.Request{
		"5":                                   request(5, "5"),
		"0":                                   request(0, "0"),
		"garbage":                             request(0, "five"),
		"5, and the stream has ended already": request(0, "5"),
	} {
		if _, err := Check(r); err == nil || FaultOf(err) != Malformed {
			t.Errorf("%s: got %v, want it to be malformed", name, err)
		}
	}
	for name, r := range map[string]*http.Request{
		"a stream without a length is how it has to be": request(-1),
		"one that has ended already":                    request(0),
	} {
		if _, err := Check(r); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// HTTP/2's server lets requests pass that name no host.
func TestHandshakeWithoutAHostIsRefused(t *testing.T) {
	header := http.Header{":protocol": {"websocket"}}
	header.Set(FieldVersion, "13")
	r := streamRequest(header)
	r.Host = ""
	if _, err := Check(r); err == nil || FaultOf(err) != Malformed {
		t.Errorf("got %v, want it to be malformed", err)
	}
}
