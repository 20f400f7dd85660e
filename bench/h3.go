package main

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/quic-go/quic-go"
	"github.com/quic-go/quic-go/http3"
)

// h3Conn is a client's HTTP/3 connection.
type h3Conn struct {
	conn   *quic.Conn
	client *http3.ClientConn
	addr   string
}

// dialH3 connects, from a socket of its own, and waits for the server's settings.
func dialH3(ctx context.Context, t target) (carrier, error) {
	config := t.tls.Clone()
	config.NextProtos = []string{http3.NextProtoH3}
	conn, err := quic.DialAddr(ctx, t.addr, config, &quic.Config{MaxIdleTimeout: connectionLimit})
	if err != nil {
		return nil, err
	}
	c := &h3Conn{conn: conn, client: new(http3.Transport).NewClientConn(conn), addr: t.addr}
	select {
	case <-c.client.ReceivedSettings():
	case <-ctx.Done():
		closeQuietly(c)
		return nil, ctx.Err()
	}
	if !c.client.Settings().EnableExtendedConnect {
		closeQuietly(c)
		return nil, errNotOffered
	}
	return c, nil
}

func (c *h3Conn) Close() error {
	return c.conn.CloseWithError(quic.ApplicationErrorCode(http3.ErrCodeNoError), "")
}

func (c *h3Conn) open(ctx context.Context, path string) (stream, error) {
	rs, err := c.client.OpenRequestStream(ctx)
	if err != nil {
		return nil, err
	}
	s := h3Stream{rs}
	_ = s.SetDeadline(time.Now().Add(handshakeLimit)) // it is open
	if err := s.handshake(c.addr, path); err != nil {
		closeQuietly(s)
		return nil, err
	}
	return s, nil
}

// h3Stream is a request that has become a tunnel (RFC 9220).
type h3Stream struct{ *http3.RequestStream }

func (s h3Stream) handshake(host, path string) error {
	u, err := url.Parse("https://" + host + path)
	if err != nil {
		return err
	}
	req := &http.Request{
		Method: http.MethodConnect, Proto: "websocket", Host: host, URL: u,
		Header: http.Header{"Sec-Websocket-Version": {"13"}, "Accept-Encoding": {"identity"}},
	}
	if err := s.SendRequestHeader(req); err != nil {
		return err
	}
	resp, err := s.ReadResponse() //nolint:bodyclose // it is the stream
	if err != nil {
		return err
	}
	return accepted(resp.StatusCode)
}

// Close ends both directions.
func (s h3Stream) Close() error {
	s.CancelRead(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	s.CancelWrite(quic.StreamErrorCode(http3.ErrCodeRequestCanceled))
	return nil
}

var errNotOffered = errors.New("the server does not offer extended CONNECT")
