package server

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"

	"github.com/shimd/shimd/node/api"
)

// APIServer is Reviews by an API server.
type APIServer struct{ Server api.Server }

var _ Reviews = APIServer{}

// Token makes a TokenReview.
func (a APIServer) Token(ctx context.Context, token string) (authenticationv1.TokenReviewStatus, error) {
	review := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: token}}
	answer, err := a.Server.ReviewToken(ctx, review)
	if err != nil {
		return authenticationv1.TokenReviewStatus{}, fmt.Errorf("asking the API server whose token it is: %w", err)
	}
	return answer.Status, nil
}

// Access makes a SubjectAccessReview.
func (a APIServer) Access(ctx context.Context, spec authorizationv1.SubjectAccessReviewSpec) (authorizationv1.SubjectAccessReviewStatus, error) {
	answer, err := a.Server.ReviewAccess(ctx, &authorizationv1.SubjectAccessReview{Spec: spec})
	if err != nil {
		return authorizationv1.SubjectAccessReviewStatus{}, fmt.Errorf("asking the API server what user %q may do: %w", spec.User, err)
	}
	return answer.Status, nil
}
