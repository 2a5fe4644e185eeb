"""Submit mails to a mail server: SMTP as RFC 5321 and RFC 6409 define it, with TLS and a login.

The dialogue is our own, over the connections that [network] allows. A library would have to tell at which command a
mail was refused, and whether a connection was lost before or after the end of the mail. aiosmtplib does not tell the
second, and needs asyncio; smtpproto raises errors for replies that it does not expect, and reads without a limit.
Neither sends commands together (RFC 2920), which saves two of four round trips for each mail.
"""
