package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
)

// maxTokenAnswer bounds what a token server may say.
const maxTokenAnswer = 64 << 10

// Credentials are what a client gives to authenticate with. The zero value is anonymous.
type Credentials struct {
	Username, Password string
	IdentityToken      string // OAuth2 refresh token
	RegistryToken      string // bearer token for the registry itself
	ServerAddress      string // the only host they are for; "" is the image's registry, wherever hosts.toml says it is
}

// ParseCredentials takes the fields of CRI's AuthConfig; auth is base64 of user:password.
func ParseCredentials(username, password, auth, serverAddress, identityToken, registryToken string) (Credentials, error) {
	c := Credentials{Username: username, Password: password, ServerAddress: serverAddress, IdentityToken: identityToken, RegistryToken: registryToken}
	if auth != "" && username == "" && identityToken == "" && registryToken == "" {
		plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(auth))
		user, pass, found := strings.Cut(string(plain), ":")
		if err != nil || !found {
			return Credentials{}, fmt.Errorf("the registry credentials' auth is not base64 of user:password: %w", errdefs.ErrInvalidArgument)
		}
		c.Username, c.Password = user, strings.TrimRight(pass, "\x00")
	}
	return c, nil
}

// forHost answers the credentials that a host may see: with a server address, that host alone; without, the registry that the image's name says and the hosts that
// the administrator put in its place, but never one reached through http unless that was written down (CVE-2019-10214) or is this machine.
func (c Credentials) forHost(h host, registry string) Credentials {
	if c.ServerAddress == "" {
		return c
	}
	address := c.ServerAddress
	if _, rest, found := strings.Cut(address, "://"); found {
		address = rest
	}
	address, _, _ = strings.Cut(address, "/")
	switch address {
	case "index.docker.io", "registry-1.docker.io":
		address = "docker.io"
	}
	if address == h.url.Host || h.upstream && address == registry {
		return c
	}
	return Credentials{}
}

func (c Credentials) anonymous() bool {
	return c.Username == "" && c.Password == "" && c.IdentityToken == "" && c.RegistryToken == ""
}

// authorizer holds what one endpoint wants for one repository.
type authorizer struct {
	endpoint *endpoint
	scope    string
	creds    Credentials

	mu    sync.Mutex
	value string // of the Authorization header; "" until a challenge asks for one
}

func (a *authorizer) header() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.value
}

// challenged answers a 401. It says whether to ask again.
func (a *authorizer) challenged(ctx context.Context, resp *http.Response) (bool, error) {
	used := resp.Request.Header.Get("Authorization")
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.value != used {
		return true, nil // somebody else got a new token meanwhile
	}
	a.value = ""
	for _, challenge := range parseChallenges(resp.Header.Values("Www-Authenticate")) {
		switch challenge.scheme {
		case "bearer":
			token, err := a.token(ctx, challenge.params)
			if err != nil {
				return false, fmt.Errorf("getting a token for %s: %w", a.endpoint.url.Host, err)
			}
			a.value = "Bearer " + token
			return a.value != used, nil
		case "basic":
			switch {
			case a.creds.Username != "" || a.creds.Password != "":
				a.value = basic(a.creds)
			case a.creds.RegistryToken != "":
				a.value = "Bearer " + a.creds.RegistryToken
			}
			return a.value != "" && a.value != used, nil
		}
	}
	return false, nil
}

func basic(c Credentials) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// token asks the realm of a bearer challenge for a token (the distribution project's token and OAuth2 specifications).
func (a *authorizer) token(ctx context.Context, params map[string]string) (string, error) {
	if a.creds.RegistryToken != "" {
		return a.creds.RegistryToken, nil
	}
	realm, err := url.Parse(params["realm"])
	if err != nil || realm.Host == "" {
		return "", fmt.Errorf("the realm %.200q is not a URL: %w", params["realm"], errdefs.ErrUnauthenticated)
	}
	if err := a.allowRealm(realm); err != nil {
		return "", err
	}
	if a.creds.IdentityToken != "" {
		return a.exchange(ctx, realm, params)
	}
	query := realm.Query()
	query.Set("scope", a.scope)
	if params["service"] != "" {
		query.Set("service", params["service"])
	}
	realm.RawQuery = query.Encode()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, realm.String(), nil)
	if err != nil {
		return "", err
	}
	if !a.creds.anonymous() {
		req.Header.Set("Authorization", basic(a.creds))
	}
	return a.askToken(ctx, req)
}

// allowRealm: a registry chooses its token server, so the credentials must not go there in clear, unless the registry itself is configured so and is the same host.
func (a *authorizer) allowRealm(realm *url.URL) error {
	switch realm.Scheme {
	case "https":
		return nil
	case "http":
		if isLoopback(realm.Host) && isLoopback(a.endpoint.url.Host) || a.endpoint.plain.Load() && realm.Host == a.endpoint.url.Host {
			return nil
		}
	}
	return fmt.Errorf("registry %s wants credentials sent to %s by %s: %w", a.endpoint.url.Host, realm.Host, realm.Scheme, errdefs.ErrPermissionDenied)
}

func (a *authorizer) exchange(ctx context.Context, realm *url.URL, params map[string]string) (string, error) {
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {a.creds.IdentityToken},
		"client_id":     {"shimd"},
		"scope":         {a.scope},
	}
	if params["service"] != "" {
		form.Set("service", params["service"])
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, realm.String(), strings.NewReader(form.Encode()))
	if err != nil {
		return "", err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	return a.askToken(ctx, req)
}

func (a *authorizer) askToken(ctx context.Context, req *http.Request) (string, error) {
	// A body that holds a secret would be sent again by a 307 or 308, so no redirects there at all.
	client := *a.endpoint.client
	if req.Method == http.MethodPost {
		client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	req.Header.Set("User-Agent", "shimd")
	resp, err := client.Do(req)
	if err != nil {
		return "", transportError(ctx, err)
	}
	defer closeBody(resp)
	defer inTime(resp)()
	if resp.StatusCode != http.StatusOK {
		return "", statusError(resp)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenAnswer))
	if err != nil {
		return "", transportError(ctx, err)
	}
	var answer struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return "", fmt.Errorf("the token server %s does not answer JSON: %w", req.URL.Host, errdefs.ErrUnauthenticated)
	}
	token := answer.Token
	if token == "" {
		token = answer.AccessToken
	}
	if token == "" || strings.ContainsAny(token, "\r\n") {
		return "", fmt.Errorf("the token server %s answers no token: %w", req.URL.Host, errdefs.ErrUnauthenticated)
	}
	return token, nil
}

type challenge struct {
	scheme string
	params map[string]string
}

// parseChallenges reads WWW-Authenticate headers (RFC 9110, section 11.6.1), leniently: what makes no sense is left out.
func parseChallenges(headers []string) []challenge {
	var all []challenge
	for _, h := range headers {
		if len(h) > 8<<10 {
			continue
		}
		scheme, rest, _ := strings.Cut(strings.TrimSpace(h), " ")
		c := challenge{scheme: strings.ToLower(scheme), params: map[string]string{}}
		for rest = strings.TrimLeft(rest, " ,"); rest != ""; rest = strings.TrimLeft(rest, " ,") {
			key, after, found := strings.Cut(rest, "=")
			if !found {
				break
			}
			var value string
			value, rest = paramValue(strings.TrimLeft(after, " "))
			if fields := strings.Fields(key); len(fields) == 2 { // a second challenge in the same header
				all = append(all, c)
				c = challenge{scheme: strings.ToLower(fields[0]), params: map[string]string{}}
				key = fields[1]
			}
			c.params[strings.ToLower(strings.TrimSpace(key))] = value
		}
		all = append(all, c)
	}
	return all
}

func paramValue(s string) (value, rest string) {
	if !strings.HasPrefix(s, `"`) {
		i := strings.IndexAny(s, ", ")
		if i < 0 {
			return s, ""
		}
		return s[:i], s[i:]
	}
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch s[i] {
		case '"':
			return b.String(), s[i+1:]
		case '\\':
			if i++; i < len(s) {
				b.WriteByte(s[i])
			}
		default:
			b.WriteByte(s[i])
		}
	}
	return b.String(), ""
}
