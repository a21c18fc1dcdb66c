"""Bank details of a customer, with an account number that can be searched for."""

CANARY = "PT50CANARY0002012312345678915"
ADDRESS = {
    "firstLine": "Example Street 1",
    "zipCode": "1000-001",
    "city": "Lisboa",
    "country": "PT",
}
DETAILS = {
    "firstName": "Ana",
    "lastName": "Silva",
    "bankAccount": {
        "accountNumber": CANARY,
        "financialInstitutionIdentifier": "BCOMPTPL",
        "beneficiaryName": "Ana Silva",
    },
    "billingAddress": ADDRESS,
}
